"""Yogi: Adam with a second moment that changes by a bounded amount."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import (
    bias_corrected,
    clip_to_squarable,
    divide_by_root,
    means,
    safe_square,
)
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    Decay,
    LearningRate,
    NonNegative,
    transform,
)


@transform(packable=True, upcast=True)  # not elementwise: padding zeros would not stay zeros
def scale_by_yogi(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    eps_root: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 1e-6,
):
    r"""Take Adam's step with a second moment that changes by at most a multiple of the squared gradient.

    With $m$ from `scale_by_adam`: $v \leftarrow v - (1 - \beta_2) \mathrm{sign}(v - |g|^2) |g|^2$; the update is
    $\hat m / (\sqrt{\hat v + \epsilon_0} + \epsilon)$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes per parameter (16 in float64).
    Source: Zaheer et al. 2018, algorithm 2
    (https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html). Differs from the paper, as
    Optax does: means are bias-corrected, and $m$ also starts at the initial value.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).
      initial_accumulator_value: the first $m$ and $v$, in [0, inf).

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_yogi(eps=0.0, initial_accumulator_value=0.0)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(4))
    [ 1. -1.]
    """

    def init(params):
        mu, nu = (tree.accumulators(params, initial_accumulator_value) for _ in range(2))
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(g, state, params=None):
        count = optax.safe_increment(state.count)
        m = means(clip_to_squarable(g), state.mu, b1)
        v = jax.tree.map(lambda g, v: _yogi_moment(safe_square(g), tree.real_part(v), b2), g, state.nu)
        m_hat, v_hat = bias_corrected(m, b1, count), bias_corrected(v, b2, count)
        scaled = jax.tree.map(lambda m, v: divide_by_root(m, v, eps, eps_root), m_hat, v_hat)
        return scaled, optax.ScaleByAdamState(count, m, v)

    return init, update


def _yogi_moment(g_sq, v, b2):
    return v - (1 - b2) * jnp.sign(v - g_sq) * g_sq


@transform
def yogi(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
):
    r"""Yogi: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_yogi`.

    State: 8 bytes per parameter (16 in float64). Source: Zaheer et al. 2018, algorithm 2
    (https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_yogi`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.yogi(0.1)).transforms]
    ['scale_by_yogi', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_yogi(b1, b2, eps),
        scale_by_learning_rate(learning_rate),
    )
