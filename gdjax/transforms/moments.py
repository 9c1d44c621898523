"""Running means, their weights, and what is divided by them."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax import tree
from gdjax.squares import largest_squarable


def adam_state(params, mu_dtype=None):
    """Adam's state before the first step."""
    mu, nu = tree.accumulators(params, 0, mu_dtype), tree.accumulators(params, 0)
    return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)


def below_one(decay):
    """A decay; one that 16 bits have rounded up to 1 just below it, since 0.999 is 1 in bfloat16."""
    if isinstance(decay, float) or jnp.result_type(decay).itemsize != 2:
        return decay
    return jnp.minimum(decay, 1 - jnp.finfo(decay.dtype).epsneg).astype(jnp.float32)


def rounded(decay, dtype) -> Any:
    """A decay as a dtype holds it: `1 - decay` is then exact, and a mean's weights sum to 1.

    In float32, 0.9999 and 0.0001 fall short of 1 by a part in 6,000 of the latter, and so would the mean of ones.
    """
    if isinstance(decay, float):
        return float(np.asarray(decay, dtype)) if decay < 1 - jnp.finfo(dtype).epsneg else decay
    return tree.scalar(below_one(decay), np.zeros((), dtype))


def squarable(gs, terms: float = 1):
    r"""Clip every number to the largest whose square is finite: 1.8e19 in float32; NaN stays NaN.

    The square of a larger gradient would be inf, and a mean that holds inf would make every later step 0. A step
    of $m / \sqrt v$ is the same where all gradients are scaled alike, so such a gradient still makes the step of exact
    arithmetic. `square` makes NaN of inf.

    Clipping takes one array: XLA copies it into every kernel that reads it, and writes no tree of temporaries.
    """
    return jax.tree.map(lambda g: _clipped(g, largest_squarable(g.dtype, terms)), gs)


def square(x, terms: float = 1, of=None):
    """Return `|x|^2` after the clip of `squarable`; NaN where `of`, by default `x` itself, is inf or NaN."""
    of = x if of is None else of
    return tree.abs_sq(_clipped(x, largest_squarable(x.dtype, terms))) + tree.real_part(of - of)


TERMS = 2**16
"""Number of the largest squares that a sum has room for."""


def with_room(total):
    """Return a sum of squares, at most the largest to which another can be added: inf would stop all steps."""
    return jnp.minimum(tree.real_part(total), (1 - 2 / TERMS) * float(jnp.finfo(total.dtype).max))


def _clipped(g, bound):
    if not jnp.iscomplexobj(g):
        return jax.lax.clamp(g.dtype.type(-bound), g, g.dtype.type(bound))  # one operation; jnp.clip traces six
    size, bound = jnp.maximum(jnp.abs(g.real), jnp.abs(g.imag)), bound / math.sqrt(2)
    return g * jnp.where(size > bound, bound / jnp.where(size > bound, size, 1.0), 1.0)


def mean(x, old, decay):
    """An exponential mean, one step on."""
    decay = rounded(decay, tree.real_dtype(old.dtype))
    return decay * old + (1 - decay) * x


def means(xs, olds, decay):
    """The exponential mean of every leaf, one step on, in the dtype of accumulation."""
    return jax.tree.map(lambda x, old: mean(x, old, decay), xs, tree.widen(olds))


def mean_squares(gs, olds, decay):
    """The exponential mean of `|g|^2` of every leaf, one step on; finite where `g` is."""
    return jax.tree.map(lambda g, old: mean(square(g), old, decay), gs, olds)


def after(x, *results):
    """`x` itself, but not before some results are there (NaN where one of them is).

    A buffer that `x` will take the place of is then read before it is written over, and need not be copied: XLA orders
    what depends on a result, and nothing else. A barrier does not do it, since what it returns is a copy all the same.
    """
    for result in results:
        x = jnp.where(result == result, x, result)
    return x


def correction(decay, count, dtype=None):
    """`1 - decay ** count`, the sum of a mean's weights, as precise where it is small as where it is not."""
    decay = rounded(decay, dtype or jnp.result_type(float))
    if isinstance(decay, float):
        logarithm = math.log(decay) if decay else -math.inf
    else:
        logarithm = jnp.log(jnp.maximum(decay, jnp.finfo(decay.dtype).tiny))
    return -jnp.expm1(count.astype(float) * logarithm)


def corrected(ms, decay, count):
    """Means divided by the sum of their weights."""
    weight = functools.cache(lambda dtype: correction(decay, count, dtype))
    return jax.tree.map(lambda m: over(m, weight(tree.real_dtype(m.dtype))), ms)


def looking_ahead(gs, ms, decay, count):
    """Nesterov's corrected mean: one step further along the mean, the gradient once more (Dozat 2016, algorithm 2)."""
    following = optax.safe_increment(count)

    @functools.cache
    def shares(dtype):
        kept = rounded(decay, dtype)
        return (1 - kept) / correction(decay, count, dtype), kept / correction(decay, following, dtype)

    def ahead(g, m):
        of_g, of_m = (tree.scalar(share, m) for share in shares(tree.real_dtype(m.dtype)))
        return of_m * m + of_g * g

    return jax.tree.map(ahead, gs, ms)


def over(x, number):
    """`x` divided by a scalar."""
    return x / tree.scalar(number, x)


def by_root(x, v, eps, eps_root: Any = 0.0):
    """`x / (sqrt(v + eps_root) + eps)`."""
    return x / (tree.root(tree.real_part(v), eps_root) + eps)
