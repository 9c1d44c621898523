"""LaProp: divide each gradient by the second moment, then average."""

import jax
import optax

from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import adam_state, bias_corrected, clip_to_squarable, divide_by_root, mean_squares, means
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    WeightDecay,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_laprop(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
):
    r"""Average gradients, each divided by the root of the mean of squares so far.

    With $v$ from `scale_by_adam`:
    $m \leftarrow \beta_1 m + (1 - \beta_1) g / (\sqrt{\hat v + \epsilon_0} + \epsilon)$; the update is
    $m / (1 - \beta_1^t)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes per parameter (16 in float64).
    Source: Ziyin et al. 2020, algorithm 1 (https://arxiv.org/abs/2002.04839).
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_laprop()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        v = mean_squares(g, state.nu, b2)
        normalized = jax.tree.map(
            lambda g, v: divide_by_root(g, v, eps, eps_root), clip_to_squarable(g), bias_corrected(v, b2, count)
        )
        m = means(normalized, state.mu, b1)
        return bias_corrected(m, b1, count), optax.ScaleByAdamState(count, m, v)

    return lambda params: adam_state(params, mu_dtype), update


@transform
def laprop(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 0.0,
    mask: Mask | None = None,
):
    r"""LaProp: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_laprop`.

    State: 8 bytes per parameter (16 in float64). Source: Ziyin et al. 2020, algorithm 1 (https://arxiv.org/abs/2002.04839).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_laprop`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.laprop(0.1)).transforms]
    ['scale_by_laprop', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_laprop(b1, b2, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
