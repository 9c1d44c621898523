"""ADOPT: divide each gradient by the second moment before it, then average."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gdjax import tree, xla
from gdjax.compose.chain import chain
from gdjax.transforms.moments import adam_state, clip_to_squarable, mean, mean_squares, means
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    transform,
)


def fourth_root(count: jax.Array) -> jax.Array:
    """Return $t^{1/4}$, the bound to which ADOPT's authors clip normalized gradients at step $t$."""
    return jnp.asarray(count, float) ** 0.25


@transform(elementwise=True, upcast=True)
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
    r"""Average gradients, each divided by the root of the mean of squares before it.

    At step $t = 0$, $v = g^2$ and $m = 0$. Afterwards $u = g / \max(\sqrt v, \epsilon)$, clipped to $[-c_t, c_t]$,
    $m \leftarrow \beta_1 m + (1 - \beta_1) u$, and only then $v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2$; the update
    is the new $m$, or with Nesterov $\beta_1 m + (1 - \beta_1) u$.

    State: `ScaleByAdamState(count, mu, nu)`, 8 bytes per parameter (16 in float64).
    Source: Taniguchi et al. 2024, algorithm 2 (https://arxiv.org/abs/2411.02853). Without clipping it is algorithm
    2 without the clip, not algorithm 1.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, in [0, 1).
      b2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, the smallest divisor, in [0, inf).
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.
      nesterov: whether to use Nesterov's mean, one step ahead.
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

    def update(g, state, params=None):
        is_first = state.count == 0
        b1_t, b2_t = jnp.where(is_first, 1.0, b1), jnp.where(is_first, 0.0, b2)
        bound = clip_value_fn(state.count) if use_clipping else jnp.inf

        def normalized(g, v):
            u = g / jnp.maximum(tree.root(tree.real_part(v)), eps)
            return jnp.where(is_first & ~jnp.isnan(g), 0.0, _adopt_clip(u, tree.scalar(bound, u)))

        u = jax.tree.map(normalized, clip_to_squarable(g), state.nu)
        m = means(u, state.mu, b1_t)
        update = jax.tree.map(lambda u, m: mean(u, m, b1_t), u, m) if nesterov else m
        v = mean_squares(jax.tree.map(xla.depend_on, g, m), state.nu, b2_t)
        return update, optax.ScaleByAdamState(optax.safe_increment(state.count), m, v)

    return lambda params: adam_state(params, mu_dtype), update


def _adopt_clip(u, bound):
    """Clip each element to `[-bound, bound]`, a complex one by its absolute value."""
    if jnp.iscomplexobj(u):
        modulus = jnp.abs(u)
        return u * jnp.where(modulus > bound, bound / jnp.maximum(modulus, bound), 1.0)
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
    r"""ADOPT: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_adopt`.

    State: 8 bytes per parameter (16 in float64). Source: Taniguchi et al. 2024, algorithm 2 (https://arxiv.org/abs/2411.02853).

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
