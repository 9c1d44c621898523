"""AMSGrad: Adam over the largest mean of squares seen so far."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import (
    by_root,
    corrected,
    mean_squares,
    means,
    squarable,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    transform,
)


@transform(elementwise=True)
def scale_by_amsgrad(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    r"""Adam's step over the largest mean of squares that was seen.

    With $m$, $v$ of `scale_by_adam`, $\bar v \leftarrow \max(\bar v, \hat v)$; the update is
    $\hat m / (\sqrt{\bar v + \epsilon_0} + \epsilon)$.

    State: `ScaleByAmsgradState(count, mu, nu, nu_max)`, 12 bytes a parameter (24 in float64).
    Source: Reddi et al. 2018, algorithm 2 (https://arxiv.org/abs/1904.09237). Differs from the paper: means are divided
    by the sum of their weights, unless this is switched off.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: as in `scale_by_adam`, in [0, 1).
      b2: as in `scale_by_adam`, in [0, 1).
      eps: as in `scale_by_adam`, in [0, inf).
      eps_root: as in `scale_by_adam`, in [0, inf).
      mu_dtype: as in `scale_by_adam`.
      bias_correction_mu: whether $\hat m = m / (1 - \beta_1^t)$, else $m$.
      bias_correction_nu: whether $\hat v = v / (1 - \beta_2^t)$, else $v$.

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

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        g = tree.widen(updates)
        m, v = means(squarable(g), state.mu, b1), mean_squares(g, state.nu, b2)
        m_hat = corrected(m, b1, count) if bias_correction_mu else m
        v_hat = corrected(v, b2, count) if bias_correction_nu else v
        largest = jax.tree.map(jnp.maximum, state.nu_max, v_hat)
        scaled = jax.tree.map(lambda m, v: by_root(m, v, eps, eps_root), m_hat, largest)
        new = {"mu": m, "nu": v, "nu_max": largest}
        kept = {name: tree.cast_like(moment, getattr(state, name)) for name, moment in new.items()}
        return tree.cast_like(scaled, updates), optax.ScaleByAmsgradState(count=count, **kept)

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
    r"""AMSGrad: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_amsgrad`.

    State: 12 bytes a parameter (24 in float64). Source: Reddi et al. 2018, algorithm 2 (https://arxiv.org/abs/1904.09237).

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
