"""Moments: exponential moving averages, their bias correction, and division by their roots."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gdjax import tree, xla
from gdjax.squares import largest_squarable


def adam_state(params, mu_dtype=None):
    """Return Adam's state before the first step."""
    mu, nu = tree.accumulators(params, 0, mu_dtype), tree.accumulators(params, 0)
    return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)


def decay_below_one(decay):
    """Return a decay that is below 1: in bfloat16, 0.999 rounds up to 1."""
    if isinstance(decay, float) or jnp.result_type(decay).itemsize != 2:
        return decay
    return jnp.minimum(decay, 1 - jnp.finfo(decay.dtype).epsneg).astype(jnp.float32)


def rounded_decay(decay, dtype) -> Any:
    """Round a decay to a dtype, so that `1 - decay` is exact and the weights of a mean sum to 1.

    In float32, 0.9999 and 0.0001 add up to slightly less than 1: the error is 1/6,000 of 0.0001. A mean of ones would
    converge to less than 1 by the same factor.
    """
    if isinstance(decay, float):
        return float(np.asarray(decay, dtype)) if decay < 1 - jnp.finfo(dtype).epsneg else decay
    return tree.scalar(decay_below_one(decay), np.zeros((), dtype))


def clip_to_squarable(gs, terms: float = 1):
    r"""Clip each element to the largest number whose square is finite, 1.8e19 in float32; NaN stays NaN.

    The square of a larger gradient is inf, and once a mean of squares is inf, every later step is 0. The step
    $m / \sqrt v$ does not depend on the scale of the gradients, so a clipped gradient still gives the step of exact
    arithmetic. After inf, `safe_square` returns NaN.

    Clipping reads one array only. So XLA fuses it into every kernel that reads the result, without temporaries.

    Args:
      gs: a tree of gradients.
      terms: how many such squares must have a finite sum.
    """
    return jax.tree.map(lambda g: _clip_abs(g, largest_squarable(g.dtype, terms)), gs)


def safe_square(x, terms: float = 1, source=None):
    """Return `|x|^2` clipped as by `clip_to_squarable`, and NaN where `source` (by default `x`) is inf or NaN."""
    source = x if source is None else source
    not_finite = tree.real_part(lax.sub(source, source))
    return lax.add(tree.abs_sq(_clip_abs(x, largest_squarable(x.dtype, terms))), not_finite)


MAX_TERMS = 2**16
"""The number of largest squares that a sum can hold without overflow."""


def capped_sum(total):
    """Return a sum of squares, capped so that one more square fits: after inf, every step would be 0."""
    return jnp.minimum(tree.real_part(total), (1 - 2 / MAX_TERMS) * float(jnp.finfo(total.dtype).max))


def _clip_abs(g, bound):
    if not jnp.iscomplexobj(g):
        return lax.clamp(g.dtype.type(-bound), g, g.dtype.type(bound))  # one operation, where jnp.clip traces six
    size, bound = jnp.maximum(jnp.abs(g.real), jnp.abs(g.imag)), bound / math.sqrt(2)
    return g * jnp.where(size > bound, bound / jnp.where(size > bound, size, 1.0), 1.0)


def mean(x, old, decay):
    """Return an exponential moving average after one step: `decay * old + (1 - decay) * x`."""
    decay = rounded_decay(decay, tree.real_dtype(old.dtype))
    return xla.weighted_sum(decay, old, 1 - decay, x)


def means(xs, olds, decay):
    """Return the moving average of each leaf after one step."""
    return jax.tree.map(lambda x, old: mean(x, old, decay), xs, olds)


def mean_squares(gs, olds, decay):
    """Return the moving average of `|g|^2` of each leaf after one step; it is finite where `g` is."""
    return jax.tree.map(lambda g, old: mean(safe_square(g), old, decay), gs, olds)


def bias_correction(decay, count, dtype=None):
    """Return `1 - decay ** count`, the sum of the weights of a mean, with full precision even where it is small."""
    decay = rounded_decay(decay, dtype or jnp.result_type(float))
    if isinstance(decay, float):
        logarithm = math.log(decay) if decay else -math.inf
    else:
        logarithm = jnp.log(jnp.maximum(decay, jnp.finfo(decay.dtype).tiny))
    return -jnp.expm1(count.astype(float) * logarithm)


def bias_corrected(ms, decay, count):
    """Return means divided by the sum of their weights: `m / (1 - decay ** count)`."""
    weight = functools.cache(lambda dtype: bias_correction(decay, count, dtype))
    return jax.tree.map(lambda m: divide_by_scalar(m, weight(tree.real_dtype(m.dtype))), ms)


def nesterov_mean(gs, ms, decay, count):
    """Return Nesterov's bias-corrected mean, which counts the gradient once more (Dozat 2016, algorithm 2)."""
    next_count = optax.safe_increment(count)

    @functools.cache
    def weights(dtype):
        b1 = rounded_decay(decay, dtype)
        return (1 - b1) / bias_correction(decay, count, dtype), b1 / bias_correction(decay, next_count, dtype)

    def m_hat(g, m):
        weight_g, weight_m = (tree.scalar(weight, m) for weight in weights(tree.real_dtype(m.dtype)))
        return weight_m * m + weight_g * g

    return jax.tree.map(m_hat, gs, ms)


def divide_by_scalar(x, number):
    """Return `x` divided by a scalar."""
    return x / tree.scalar(number, x)


def divide_by_root(x, v, eps, eps_root: float | jax.Array = 0.0):
    """Return `x / (sqrt(v + eps_root) + eps)`."""
    return x / (tree.root(tree.real_part(v), eps_root) + eps)
