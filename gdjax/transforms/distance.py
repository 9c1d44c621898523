"""Distances from the start and sums of squares: the blocks of methods without a learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax import axes, tree, xla
from gdjax.squares import largest_squarable, safe_sqrt, scaled_norms
from gdjax.transforms.moments import MAX_TERMS, bias_correction, clip_to_squarable
from gdjax.value import at


def sum_dtype(params):
    """Return the dtype of sums over all leaves: their widest real accumulation dtype."""
    dtypes = [jnp.finfo(tree.wide(jnp.result_type(p))).dtype for p in jax.tree.leaves(params)]
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=np.dtype("float32"))


def displacement(start, end):
    """Return `end - start` for each leaf; 16-bit leaves are widened before they are subtracted."""
    start, end = tree.widen((start, end))
    return jax.tree.map(jnp.subtract, tree.cast_like(end, start), start)


def distance_and_gradient_norms(moved, grads, axis_name):
    """Return the norms of a displacement and of a gradient, with one collective for both.

    The displacement's squares are summed as they are computed. A norm at several scales would write it to memory.
    """
    groups = jax.tree.leaves(moved), jax.tree.leaves(grads)
    over = [[axes.sharded_axes(x, axis_name) for x in group] for group in groups]
    sizes = [safe_sqrt(jnp.sum(tree.abs_sq(x))) for x in groups[0]]
    return scaled_norms([sizes, groups[1]], over)


def add_square(total, norm):
    """Add the square of a norm to a sum that stays finite: it holds 65,536 of the largest squares."""
    bounded = jnp.minimum(norm, largest_squarable(total.dtype, MAX_TERMS))
    return jnp.minimum(total + jnp.square(bounded), jnp.finfo(total.dtype).max)


def largest_summable(norm):
    """Return the largest norm whose square `add_square` adds without clipping."""
    return largest_squarable(norm.root.dtype, MAX_TERMS)


def leaf_sums(f, *trees):
    """Return the sum of `f` over the elements of each leaf."""
    return jax.tree.map(lambda *leaves: xla.sum_result(f(*leaves)), *trees)


def leaf_sum_pairs(f, *trees):
    """Return two trees: the sums of both results of `f` over the elements of each leaf."""
    pairs = jax.tree.map(lambda *leaves: xla.sum_results(*f(*leaves)), *trees)
    return jax.tree.transpose(jax.tree.structure(trees[0]), jax.tree.structure((0, 0)), pairs)


def nonzero_or_one(x):
    """Return `x`, or 1 where it is 0: a safe divisor while nothing was summed, so that 0 / 0 gives 0."""
    return jnp.where(x == 0, 1.0, x)


def require_betas(who, betas):
    """Return `betas`, which must be a pair."""
    if not (isinstance(betas, (tuple, list)) and len(betas) == 2):
        raise ValueError(f"{who}: betas must be a pair of numbers, got {betas!r}.")
    return betas


def initial_estimate(estim_lr0, params):
    """Return the estimate and its numerator before the first step."""
    dtype = sum_dtype(params)
    return tree.fresh(estim_lr0, dtype), jnp.zeros((), dtype)


def bias_corrected_rate(d, learning_rate, betas, count):
    """Return the estimate times the learning rate and Adam's bias correction."""
    b1, b2 = (bias_correction(beta, optax.safe_increment(count)) for beta in betas)
    return d * tree.scalar(at(learning_rate, count), d) * tree.scalar(jnp.sqrt(b2) / b1, d)


def decayed_sum(x, old, decay, weight):
    """Return `decay * old + weight * x`."""
    return xla.weighted_sum(tree.scalar(decay, old), old, tree.scalar(weight, old), x)


def clip_for_sum(gs):
    """Clip gradients for a sum, at a slightly different bound: XLA then fuses the clip into the sum."""
    return clip_to_squarable(gs, terms=1.00001)


def real_product(x, y):
    """Return the real part of `conj(x) * y` elementwise: the terms of an inner product."""
    return tree.real_part(jnp.conj(x) * y)
