"""AdaGrad: divide by the root of the sum of past squares."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import MAX_TERMS, capped_sum, clip_to_squarable, safe_square
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import LearningRate, NonNegative, transform


@transform(elementwise=True, upcast=True)
def scale_by_rss(initial_accumulator_value: NonNegative = 0.1, eps: NonNegative = 1e-7):
    r"""Divide the gradient by the root of the sum of all past squares: AdaGrad.

    $s \leftarrow s + |g|^2$; the update is $g / \sqrt{s + \epsilon}$, and 0 where $s = 0$.

    State: `ScaleByRssState(sum_of_squares)`, 4 bytes per parameter (8 in float64).
    Source: Duchi et al. 2011, figure 1 with diagonal matrices (https://jmlr.org/papers/v12/duchi11a.html). Differs from
    the paper: $\epsilon$ stands under the root.
    Gradients beyond 7.2e16 (in float32) are clipped to it, so that the sum can hold 65,536 of the largest squares.

    Args:
      initial_accumulator_value: the first $s$, in [0, inf).
      eps: $\epsilon$, in [0, inf).

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_rss(0.0, 0.0)
    >>> print(tx.update(jnp.array([0.0, -4.0]), tx.init(jnp.zeros(2)))[0])
    [ 0. -1.]
    """

    def init(params):
        return optax.ScaleByRssState(sum_of_squares=tree.accumulators(params, initial_accumulator_value))

    def update(g, state, params=None):
        s = jax.tree.map(lambda g, s: capped_sum(s) + safe_square(g, MAX_TERMS), g, state.sum_of_squares)
        scaled = jax.tree.map(lambda g, s: _adagrad_step(g, s, eps), clip_to_squarable(g, MAX_TERMS), s)
        return scaled, optax.ScaleByRssState(s)

    return init, update


def _adagrad_step(g, s, eps):
    empty = s == 0
    return jnp.where(empty, 0.0, g * jax.lax.rsqrt(jnp.where(empty, 1.0, s) + eps))


@transform
def adagrad(
    learning_rate: LearningRate,
    initial_accumulator_value: NonNegative = 0.1,
    eps: NonNegative = 1e-7,
):
    r"""AdaGrad: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_rss`.

    State: 4 bytes per parameter (8 in float64). Source: Duchi et al. 2011, figure 1 (https://jmlr.org/papers/v12/duchi11a.html).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      initial_accumulator_value, eps: as in `scale_by_rss`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adagrad(0.1)).transforms]
    ['scale_by_rss', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps),
        scale_by_learning_rate(learning_rate),
    )
