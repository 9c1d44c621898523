"""AMSGrad: Adam with the largest mean of squares so far."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import (
    bias_corrected,
    clip_to_squarable,
    divide_by_root,
    mean_squares,
    means,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_amsgrad(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    r"""Divide the mean of past gradients by the root of the largest mean of squares so far.

    With $m$, $v$ from `scale_by_adam`: $\bar v \leftarrow \max(\bar v, \hat v)$; the update is
    $\hat m / (\sqrt{\bar v + \epsilon_0} + \epsilon)$.

    State: `ScaleByAmsgradState(count, mu, nu, nu_max)`, 12 bytes per parameter (24 in float64).
    Source: Reddi et al. 2018, algorithm 2 (https://arxiv.org/abs/1904.09237). Differs from the paper: means are
    bias-corrected, unless this is switched off.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      bias_correction_mu: whether $\hat m = m / (1 - \beta_1^t)$, instead of $m$.
      bias_correction_nu: whether $\hat v = v / (1 - \beta_2^t)$, instead of $v$.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_amsgrad()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def init(params):
        mu, nu = tree.accumulators(params, 0, mu_dtype), tree.accumulators(params, 0)
        nu_max = tree.accumulators(params, 0)
        return optax.ScaleByAmsgradState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu, nu_max=nu_max)

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        m, v = means(clip_to_squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        m_hat = bias_corrected(m, b1, count) if bias_correction_mu else m
        v_hat = bias_corrected(v, b2, count) if bias_correction_nu else v
        v_max = jax.tree.map(jnp.maximum, state.nu_max, v_hat)
        scaled = jax.tree.map(lambda m, v: divide_by_root(m, v, eps, eps_root), m_hat, v_max)
        return scaled, optax.ScaleByAmsgradState(count, m, v, v_max)

    return init, update


@transform
def amsgrad(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    r"""AMSGrad: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_amsgrad`.

    State: 12 bytes per parameter (24 in float64). Source: Reddi et al. 2018, algorithm 2 (https://arxiv.org/abs/1904.09237).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu: as in `scale_by_amsgrad`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.amsgrad(0.1)).transforms]
    ['scale_by_amsgrad', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu),
        scale_by_learning_rate(learning_rate),
    )
