"""SM3: AdaGrad with one accumulator per row and per column."""

import functools

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import MAX_TERMS, capped_sum, clip_to_squarable, means, safe_square
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import Decay, LearningRate, Momentum, NonNegative, transform


@transform(upcast=True)
def scale_by_sm3(b1: Decay = 0.9, b2: Momentum = 1.0, eps: NonNegative = 1e-8):
    r"""Divide the gradient by the root of a bound on its sum of squares, stored by row and column, then average.

    A leaf has accumulators $\mu^{(r)}$, one vector for each dimension $r$:
    $\nu = \min_r \mu^{(r)} + |g|^2$, and $\mu^{(r)} \leftarrow \max \nu$ over all other dimensions. The update is the
    mean $m \leftarrow \beta_1 m + (1 - \beta_1)\, g / \sqrt{\nu + \epsilon}$. With $\beta_2 < 1$ the sum becomes the
    mean $\nu = \beta_2 \min_r \mu^{(r)} + (1 - \beta_2) |g|^2$. A vector stores $\nu$ itself, and a scalar counts as a
    vector of one element.

    State: `ScaleBySM3State(mu, nu)`: `mu` holds a list of vectors for each leaf, one for each dimension; `nu` is $m$.
    4 bytes per parameter (8 in float64), and 4 per row and column. Source: Anil et al. 2019, algorithm SM3-II
    (https://arxiv.org/abs/1901.11150). Differs from the paper: adds $\epsilon$. Differs from Optax, which fails on
    scalars, empty leaves and complex numbers.
    Gradients beyond 7.2e16 (in float32) are clipped to it, so that the sum can hold 65,536 of the largest squares.

    Args:
      b1: $\beta_1$, the decay of the mean, in [0, 1).
      b2: $\beta_2$, in [0, 1]; 1 for the sum of squares.
      eps: $\epsilon$, in [0, inf).

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_sm3(b1=0.0)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def init(params):
        zeros = jax.tree.map(tree.real_part, tree.accumulators(params, 0))
        return optax.ScaleBySM3State(mu=jax.tree.map(_sm3_bounds, zeros), nu=tree.accumulators(params, 0))

    def update(updates, state, params=None):
        sums = jax.tree.map(bounded_sum, updates, state.mu)
        g = clip_to_squarable(updates, MAX_TERMS)
        scaled = jax.tree.map(lambda g, v: g * _reciprocal_root(v + tree.scalar(eps, v)), g, sums)
        m = means(scaled, state.nu, b1)
        mu = jax.tree.map(
            lambda v, bounds: jax.tree.unflatten(jax.tree.structure(bounds), _sm3_bounds(v)), sums, state.mu
        )
        return m, optax.ScaleBySM3State(mu, m)

    def bounded_sum(g, bounds):
        g_sq = safe_square(g, MAX_TERMS)
        decay = tree.scalar(b2, g_sq)
        bound = _min_bound(g, jax.tree.leaves(bounds))  # Flax NNX turns the list into a node of its state
        return decay * capped_sum(bound) + jnp.where(decay == 1, 1.0, 1 - decay) * g_sq

    return init, update


def _sm3_bounds(v):
    """Return the maximum of each slice along each dimension: the accumulators of a leaf."""
    if jnp.ndim(v) < 2:
        return [jnp.reshape(v, (1,)) if jnp.ndim(v) == 0 else v]
    return [jnp.max(v, _other_dims(v, dim), initial=0) for dim in range(v.ndim)]


def _min_bound(g, bounds):
    """Return the smallest accumulator of each element."""
    if jnp.ndim(g) < 2:
        return jnp.reshape(bounds[0], jnp.shape(g)) if jnp.ndim(g) == 0 else bounds[0]
    return functools.reduce(jnp.minimum, (jnp.expand_dims(v, _other_dims(g, dim)) for dim, v in enumerate(bounds)))


def _other_dims(x, dim):
    return tuple(i for i in range(x.ndim) if i != dim)


def _reciprocal_root(x):
    """Return `1 / sqrt(x)`, and 0 at 0 with a finite derivative."""
    positive = x > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, x, 1)), x)


@transform
def sm3(learning_rate: LearningRate, momentum: Decay = 0.9):
    r"""SM3: $p \leftarrow p - \eta\, m$ with $m$ from `scale_by_sm3`.

    State: 4 bytes per parameter (8 in float64), and 4 per row and column. Source: Anil et al. 2019, algorithm SM3-II
    (https://arxiv.org/abs/1901.11150).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      momentum: $\beta_1$ of `scale_by_sm3`, in [0, 1).

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.sm3(0.1)).transforms]
    ['scale_by_sm3', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_sm3(momentum),
        scale_by_learning_rate(learning_rate),
    )
