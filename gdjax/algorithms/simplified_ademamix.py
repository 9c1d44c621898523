"""Simplified AdEMAMix: a decaying sum of gradients plus a multiple of the newest one."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScaleBySimplifiedAdEMAMixState

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import bias_corrected, clip_to_squarable, divide_by_root, mean_squares
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import Decay, LearningRate, NonNegative, Rate, WeightDecay, at, transform


@transform(elementwise=True, upcast=True)
def scale_by_simplified_ademamix(
    b1: Decay = 0.99,
    b2: Decay = 0.95,
    alpha: Rate = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
):
    r"""Divide a decaying sum of gradients plus a multiple of the newest one by the root of the mean of squares.

    $m \leftarrow \beta_1 m + g$, $n \leftarrow \beta_2 n + (1 - \beta_2) |g|^2$; the update is
    $(m + \alpha g) / (\sqrt{\hat n + \epsilon_0} + \epsilon)$ with $\hat n = n / (1 - \beta_2^t)$.

    State: `ScaleBySimplifiedAdEMAMixState(t, m, n)`, 8 bytes per parameter (16 in float64).
    Source: Morwani et al. 2025, algorithm 1 (https://arxiv.org/abs/2502.02431). Differs from Optax, where a square that
    overflows gives NaN a step later, and where complex numbers are squared without their absolute value.

    Args:
      b1: $\beta_1$, the decay of the sum, in [0, 1).
      b2: $\beta_2$, the decay of the mean of squares, in [0, 1).
      alpha: $\alpha$, the weight of the newest gradient, a number or a schedule of it.
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_simplified_ademamix(alpha=1.0)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 2. -2.]
    """

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return ScaleBySimplifiedAdEMAMixState(t=zero, m=tree.accumulators(params, 0), n=tree.accumulators(params, 0))

    def update(updates, state, params=None):
        t = optax.safe_increment(state.t)
        alpha_t = at(alpha, state.t)
        g = clip_to_squarable(updates)
        m = jax.tree.map(lambda g, m: g + tree.scalar(b1, g) * m, g, state.m)
        n = mean_squares(updates, state.n, b2)
        mixed = jax.tree.map(lambda m, g: m + tree.scalar(alpha_t, g) * g, m, g)
        scaled = jax.tree.map(lambda u, n: divide_by_root(u, n, eps, eps_root), mixed, bias_corrected(n, b2, t))
        return scaled, ScaleBySimplifiedAdEMAMixState(t, m, n)

    return init, update


@transform
def simplified_ademamix(
    learning_rate: LearningRate,
    b1: Decay = 0.99,
    b2: Decay = 0.95,
    alpha: Rate = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: WeightDecay = 0.0,
    mask: Mask | None = None,
):
    r"""Simplified AdEMAMix: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_simplified_ademamix`.

    State: 8 bytes per parameter (16 in float64). Source: Morwani et al. 2025, algorithm 1
    (https://arxiv.org/abs/2502.02431).

    Args:
      learning_rate: $\eta$, a number or a schedule of it. The sum of gradients is up to $1 / (1 - \beta_1)$ times their
        mean, so use a rate smaller than Adam's by this factor.
      b1, b2, alpha, eps, eps_root: as in `scale_by_simplified_ademamix`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.simplified_ademamix(0.1)).transforms]
    ['scale_by_simplified_ademamix', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
