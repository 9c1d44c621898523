"""Adan: momentum over gradients and over their differences."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree, xla
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.moments import bias_corrected, clip_to_squarable, divide_by_root, means, safe_square
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    Decay,
    LearningRate,
    NonNegative,
    WeightDecay,
    transform,
)


@transform(elementwise=True, upcast=True)
def scale_by_adan(
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
):
    r"""Divide an extrapolated mean of gradients by the root mean square of extrapolated gradients.

    With $d = g - g_{old}$, and $d = 0$ at first: $m \leftarrow \beta_1 m + (1 - \beta_1) g$,
    $v \leftarrow \beta_2 v + (1 - \beta_2) d$, $n \leftarrow \beta_3 n + (1 - \beta_3) |g + \beta_2 d|^2$;
    the update is $(\hat m + \beta_2 \hat v) / (\sqrt{\hat n + \epsilon_0} + \epsilon)$, with bias-corrected means.

    State: `ScaleByAdanState(m, v, n, g, t)`, 16 bytes per parameter (32 in float64).
    Source: Xie et al. 2022, algorithm 1 (https://arxiv.org/abs/2208.06677). Differs from the paper: each
    $\beta$ is the paper's $1 - \beta$, as in its authors' code, and means are bias-corrected. Differs from Optax, which
    multiplies $d$ and $v$ by $1 - \beta_2$ instead of $\beta_2$ (google-deepmind/optax, pull request 1715).
    Gradients beyond 6.1e18 (in float32) are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      b3: $\beta_3$, in [0, 1).
      eps: $\epsilon$, added to the root, in [0, inf).
      eps_root: $\epsilon_0$, added under the root, in [0, inf).

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_adan()
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def init(params):
        zeros = [tree.accumulators(params, 0) for _ in range(4)]
        return optax.ScaleByAdanState(*zeros, t=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        t = optax.safe_increment(state.t)
        g = clip_to_squarable(updates, terms=9)  # up to three such numbers are added and squared
        d = jax.tree.map(lambda g, old: jnp.where(state.t == 0, 0.0, g - old), g, state.g)
        squares = jax.tree.map(lambda g, d, source: safe_square(g + b2 * d, source=source), g, d, updates)
        m, v, n = means(g, state.m, b1), means(d, state.v, b2), means(squares, state.n, b3)
        extrapolated = jax.tree.map(lambda m, v: m + b2 * v, bias_corrected(m, b1, t), bias_corrected(v, b2, t))
        scaled = jax.tree.map(lambda m, n: divide_by_root(m, n, eps, eps_root), extrapolated, bias_corrected(n, b3, t))
        g = jax.tree.map(xla.depend_on, g, n, v)  # n and v read the old gradient before this one overwrites it
        return scaled, optax.ScaleByAdanState(m, v, n, g, t)

    return init, update


@transform
def adan(
    learning_rate: LearningRate,
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.0,
    mask: Mask | None = None,
):
    r"""Adan: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_adan`.

    State: 16 bytes per parameter (32 in float64). Source: Xie et al. 2022, algorithm 1 (https://arxiv.org/abs/2208.06677).
    Differs from the paper: weight decay is that of AdamW.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, b3, eps, eps_root: as in `scale_by_adan`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adan(0.1)).transforms]
    ['scale_by_adan', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
