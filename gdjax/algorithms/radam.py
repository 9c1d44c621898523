"""RAdam: Adam, rectified while its mean of squares has seen few gradients."""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import (
    adam_state,
    by_root,
    corrected,
    correction,
    looking_ahead,
    mean_squares,
    means,
    squarable,
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


@transform(elementwise=True)
def scale_by_radam(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Annotated[Scalar, Interval("[4, inf)")] = 5.0,
    *,
    nesterov: bool = False,
):
    r"""Adam's step, rectified while its mean of squares has seen too few gradients to be trusted.

    With $\hat m$, $\hat v$ of `scale_by_adam`, $\rho_\infty = 2 / (1 - \beta_2) - 1$ and
    $\rho = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t)$, the update is
    $r\, \hat m / (\sqrt{\hat v + \epsilon_0} + \epsilon)$ where $\rho$ reaches the threshold, else $\hat m$, with
    $r^2 = (\rho - 4)(\rho - 2) \rho_\infty / ((\rho_\infty - 4)(\rho_\infty - 2) \rho)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes a parameter (16 in float64).
    Source: Liu et al. 2019, algorithm 2 (https://arxiv.org/abs/1908.03265).
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: as in `scale_by_adam`, in [0, 1).
      b2: as in `scale_by_adam`, in [0, 1).
      eps: as in `scale_by_adam`, in [0, inf).
      eps_root: as in `scale_by_adam`, in [0, inf).
      threshold: the $\rho$ from which on squares are trusted, in [4, inf); the paper has 4.
      nesterov: as in `scale_by_adam`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_radam()
    >>> print(tx.update(jnp.array([0.5, -5.0]), tx.init(jnp.zeros(2)))[0].round(3))
    [ 0.5 -5. ]
    """

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = tree.widen(updates)
        m, v = means(squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        m_hat = looking_ahead(squarable(g), m, b1, count) if nesterov else corrected(m, b1, count)
        trusted, r = _rectification(b2, count, threshold)
        rectified = jax.tree.map(
            lambda m, v: jnp.where(
                trusted, tree.scalar(r, m) * by_root(m, v, eps, eps_root), m + (v - v)
            ),  # NaN of NaN
            m_hat,
            corrected(v, b2, count),
        )
        mu, nu = tree.cast_like(m, state.mu), tree.cast_like(v, state.nu)
        return tree.cast_like(rectified, updates), optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return lambda params: adam_state(params), update


def _rectification(b2, count, threshold):
    """Whether the mean of squares is trusted, and the factor that makes its variance what it will be."""
    t, weight = count.astype(float), correction(b2, count)
    last = 2.0 / (1.0 - b2) - 1.0
    rho = last - 2.0 * t * (1.0 - weight) / weight
    trusted = rho >= threshold
    safe = jnp.where(trusted, rho, last)
    squared = (safe - 4.0) * (safe - 2.0) * last / ((last - 4.0) * (last - 2.0) * safe)
    return trusted, jnp.sqrt(jnp.where(trusted, squared, 1.0))


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
    r"""RAdam: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_radam`.

    State: 8 bytes a parameter (16 in float64). Source: Liu et al. 2019, algorithm 2 (https://arxiv.org/abs/1908.03265).

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
