"""RAdam: Adam, rectified while its second moment rests on few gradients."""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import (
    adam_state,
    bias_corrected,
    bias_correction,
    clip_to_squarable,
    divide_by_root,
    mean_squares,
    means,
    nesterov_mean,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    Decay,
    Interval,
    LearningRate,
    NonNegative,
    Scalar,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_radam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Annotated[Scalar, Interval("[4, inf)")] = 5.0,
    *,
    nesterov: bool = False,
):
    r"""Take Adam's step, rectified for the variance of its second moment in early steps.

    With $\hat m$, $\hat v$ from `scale_by_adam`, $\rho_\infty = 2 / (1 - \beta_2) - 1$ and
    $\rho = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t)$, the update is
    $r\, \hat m / (\sqrt{\hat v + \epsilon_0} + \epsilon)$ once $\rho$ reaches the threshold, else $\hat m$, with
    $r^2 = (\rho - 4)(\rho - 2) \rho_\infty / ((\rho_\infty - 4)(\rho_\infty - 2) \rho)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes per parameter (16 in float64).
    Source: Liu et al. 2019, algorithm 2 (https://arxiv.org/abs/1908.03265).
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1, b2, eps, eps_root: as in `scale_by_adam`.
      threshold: the least $\rho$ at which the second moment is used, in [4, inf); the paper has 4.
      nesterov: as in `scale_by_adam`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_radam()
    >>> print(tx.update(jnp.array([0.5, -5.0]), tx.init(jnp.zeros(2)))[0].round(3))
    [ 0.5 -5. ]
    """

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        m, v = means(clip_to_squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        m_hat = nesterov_mean(clip_to_squarable(g), m, b1, count) if nesterov else bias_corrected(m, b1, count)
        rectifies, r = _radam_rectification(b2, count, threshold)
        v_hat = bias_corrected(v, b2, count)

        def rectified(m, v):
            early = m + (v - v)  # NaN where v is NaN
            return jnp.where(rectifies, tree.scalar(r, m) * divide_by_root(m, v, eps, eps_root), early)

        return jax.tree.map(rectified, m_hat, v_hat), optax.ScaleByAdamState(count, m, v)

    return lambda params: adam_state(params), update


def _radam_rectification(b2, count, threshold):
    """Return whether to use the second moment, and the factor $r$ that rectifies its variance."""
    t, weight = count.astype(float), bias_correction(b2, count)
    rho_inf = 2.0 / (1.0 - b2) - 1.0
    rho = rho_inf - 2.0 * t * (1.0 - weight) / weight
    rectifies = rho >= threshold
    rho = jnp.where(rectifies, rho, rho_inf)
    r_sq = (rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)
    return rectifies, jnp.sqrt(jnp.where(rectifies, r_sq, 1.0))


@transform
def radam(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Annotated[Scalar, Interval("[4, inf)")] = 5.0,
    *,
    nesterov: bool = False,
):
    r"""RAdam: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_radam`.

    State: 8 bytes per parameter (16 in float64). Source: Liu et al. 2019, algorithm 2 (https://arxiv.org/abs/1908.03265).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, threshold, nesterov: as in `scale_by_radam`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.radam(0.1)).transforms]
    ['scale_by_radam', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
