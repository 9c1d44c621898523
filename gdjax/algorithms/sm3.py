"""SM3: AdaGrad in the memory of one number for each row and each column."""

import functools

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.transforms.moments import TERMS, means, squarable, square, with_room
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import Decay, LearningRate, Momentum, NonNegative, transform


@transform
def scale_by_sm3(b1: Decay = 0.9, b2: Momentum = 1.0, eps: NonNegative = 1e-8):
    r"""Divide the gradient by the root of a bound on its sum of squares, kept by rows and columns; average the result.

    For a leaf with accumulators $\mu^{(r)}$, one vector for each dimension $r$:
    $\nu = \min_r \mu^{(r)} + |g|^2$, $\mu^{(r)} \leftarrow \max \nu$ over all other dimensions, and the update is the
    mean $m \leftarrow \beta_1 m + (1 - \beta_1)\, g / \sqrt{\nu + \epsilon}$. With $\beta_2 < 1$ the sum becomes the
    mean $\nu = \beta_2 \min_r \mu^{(r)} + (1 - \beta_2) |g|^2$. A vector keeps $\nu$ itself, and a scalar is a vector
    of one.

    State: `ScaleBySM3State(mu, nu)`: `mu` holds a list of vectors for each leaf, one for each dimension; `nu` is $m$.
    4 bytes a parameter (8 in float64), and 4 a row and a column. Source: Anil et al. 2019, algorithm SM3-II
    (https://arxiv.org/abs/1901.11150). Differs from the paper: $\epsilon$ is added. Differs from Optax, which fails on
    scalars and on leaves of no elements, and refuses complex numbers.
    Gradients beyond 7.2e16 (in float32) are clipped to that: the sum has room for 65,536 of the largest squares.

    Args:
      b1: $\beta_1$, the decay of the mean, in [0, 1).
      b2: $\beta_2$, in [0, 1]; 1 sums squares.
      eps: $\epsilon$, in [0, inf).

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_sm3(b1=0.0)
    >>> print(tx.update(jnp.array([0.3, -5.0]), tx.init(jnp.zeros(2)))[0].round(5))
    [ 1. -1.]
    """

    def init(params):
        zeros = jax.tree.map(tree.real_part, tree.accumulators(params, 0))
        return optax.ScaleBySM3State(mu=jax.tree.map(_bounds, zeros), nu=tree.accumulators(params, 0))

    def update(updates, state, params=None):
        g = tree.widen(updates)
        sums = jax.tree.map(squares, g, state.mu)
        g = squarable(g, TERMS)
        scaled = jax.tree.map(lambda g, v: g * _reciprocal_root(v + tree.scalar(eps, v)), g, sums)
        m = means(scaled, state.nu, b1)
        mu = jax.tree.map(lambda v, bounds: jax.tree.unflatten(jax.tree.structure(bounds), _bounds(v)), sums, state.mu)
        kept = optax.ScaleBySM3State(tree.cast_like(mu, state.mu), tree.cast_like(m, state.nu))
        return tree.cast_like(m, updates), kept

    def squares(g, bounds):
        new = square(g, TERMS)
        decay = tree.scalar(b2, new)
        least = _least(g, jax.tree.leaves(bounds))  # NNX keeps a list as a state of its own
        return decay * with_room(least) + jnp.where(decay == 1, 1.0, 1 - decay) * new

    return init, update


def _bounds(v):
    """Return the largest number of each slice along each dimension: the state of SM3 for a leaf."""
    if jnp.ndim(v) < 2:
        return [jnp.reshape(v, (1,)) if jnp.ndim(v) == 0 else v]
    return [jnp.max(v, _others(v, dim), initial=0) for dim in range(v.ndim)]


def _least(g, bounds):
    """Return the smallest of the bounds on each number."""
    if jnp.ndim(g) < 2:
        return jnp.reshape(bounds[0], jnp.shape(g)) if jnp.ndim(g) == 0 else bounds[0]
    return functools.reduce(jnp.minimum, (jnp.expand_dims(v, _others(g, dim)) for dim, v in enumerate(bounds)))


def _others(x, dim):
    return tuple(i for i in range(x.ndim) if i != dim)


def _reciprocal_root(x):
    """Return `1 / sqrt(x)`, and 0 at 0 with a finite derivative."""
    positive = x > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, x, 1)), x)


@transform
def sm3(learning_rate: LearningRate, momentum: Decay = 0.9):
    r"""SM3: $p \leftarrow p - \eta\, m$ with $m$ of `scale_by_sm3`.

    State: 4 bytes a parameter (8 in float64), and 4 a row and a column. Source: Anil et al. 2019, algorithm SM3-II
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
