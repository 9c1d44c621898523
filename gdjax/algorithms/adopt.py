"""ADOPT: divide by the root of earlier squares alone, then average."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import adam_state, after, mean, mean_squares, means, squarable
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    transform,
)


def fourth_root(count: jax.Array) -> jax.Array:
    """The bound that ADOPT's authors clip normalised gradients to at a step: $t^{1/4}$."""
    return jnp.asarray(count, float) ** 0.25


@transform(elementwise=True)
def scale_by_adopt(
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], jax.Array] = fourth_root,
):
    r"""Average gradients that were each divided by the root of the mean of squares before them.

    At step $t = 0$, $v = g^2$ and $m = 0$. Afterwards $u = g / \max(\sqrt v, \epsilon)$, clipped to $[-c_t, c_t]$,
    $m \leftarrow \beta_1 m + (1 - \beta_1) u$, and only then $v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2$; the update
    is $m$, with Nesterov $\beta_1 m + (1 - \beta_1) u$ of the new $m$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes a parameter (16 in float64).
    Source: Taniguchi et al. 2024, algorithm 2 (https://arxiv.org/abs/2411.02853); unclipped it is that algorithm
    without the clip, not algorithm 1.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, the smallest divisor, in [0, inf).
      mu_dtype: the dtype in which `mu` is kept; by default that of the parameters, float32 at least.
      nesterov: whether to look ahead by one step of the mean.
      use_clipping: whether $u$ is clipped.
      clip_value_fn: $c_t$, a function of the count.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_adopt(b1=0.0)
    >>> g = jnp.array([0.3, -5.0])
    >>> first, state = tx.update(g, tx.init(jnp.zeros(2)))
    >>> print(first, tx.update(g, state)[0])
    [0. 0.] [ 1. -1.]
    """

    def update(updates, state, params=None):
        at_first = state.count == 0
        kept_b1, kept_b2 = jnp.where(at_first, 1.0, b1), jnp.where(at_first, 0.0, b2)
        bound = clip_value_fn(state.count) if use_clipping else jnp.inf

        def normalized(g, v):
            u = g / jnp.maximum(tree.root(tree.real_part(v)), eps)
            return jnp.where(at_first & ~jnp.isnan(g), 0.0, _within(u, tree.scalar(bound, u)))

        g = tree.widen(updates)
        u = jax.tree.map(normalized, squarable(g), state.nu)
        m = means(u, state.mu, kept_b1)
        ahead = jax.tree.map(lambda u, m: mean(u, m, kept_b1), u, m) if nesterov else m
        mu = tree.cast_like(m, state.mu)
        nu = tree.cast_like(mean_squares(jax.tree.map(after, g, m), state.nu, kept_b2), state.nu)
        return tree.cast_like(ahead, updates), optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return lambda params: adam_state(params, mu_dtype), update


def _within(u, bound):
    """A number no larger than a bound, a complex one shortened."""
    if jnp.iscomplexobj(u):
        size = jnp.abs(u)
        return u * jnp.where(size > bound, bound / jnp.maximum(size, bound), 1.0)
    return jnp.clip(u, -bound, bound)


@transform
def adopt(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], jax.Array] = fourth_root,
):
    r"""ADOPT: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_adopt`.

    State: 8 bytes a parameter (16 in float64). Source: Taniguchi et al. 2024, algorithm 2 (https://arxiv.org/abs/2411.02853).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, mu_dtype, nesterov, use_clipping, clip_value_fn: as in `scale_by_adopt`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adopt(0.1)).transforms]
    ['scale_by_adopt', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adopt(
            b1, b2, eps, mu_dtype, nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn
        ),
        scale_by_learning_rate(learning_rate),
    )
