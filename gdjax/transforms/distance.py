"""Distances gone and sums of squares: what learning rate free methods are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gdjax import axes, norms, tree
from gdjax.squares import largest_squarable, scaled_norms
from gdjax.transforms.moments import TERMS, correction, squarable
from gdjax.value import at


def sum_dtype(params):
    """The dtype of sums over all leaves: the widest real one in which they are accumulated."""
    found = [jnp.finfo(tree.wide(jnp.result_type(p))).dtype for p in jax.tree.leaves(params)]
    return max(found, key=lambda dtype: dtype.itemsize, default=np.dtype("float32"))


def way(start, end):
    """The way of every leaf from one tree to another, narrow ones widened before they are subtracted."""
    start, end = tree.widen((start, end))
    return jax.tree.map(jnp.subtract, tree.cast_like(end, start), start)


def gone_and_met(gone, met, axis_name):
    """Return the lengths of a distance and of a gradient, with one collective.

    Each leaf of the distance is summed as it is computed: a length at several scales would write it to memory.
    """
    groups = jax.tree.leaves(gone), jax.tree.leaves(met)
    over = [[axes.sharded_axes(x, axis_name) for x in of] for of in groups]
    sizes = [norms.safe_sqrt(jnp.sum(tree.abs_sq(x))) for x in groups[0]]
    return scaled_norms([sizes, groups[1]], over)


def with_square(total, size):
    """Add a square to a sum, which has room for 65,536 of the largest and stays finite after them."""
    bounded = jnp.minimum(size, largest_squarable(total.dtype, TERMS))
    return jnp.minimum(total + jnp.square(bounded), jnp.finfo(total.dtype).max)


def largest(length):
    """Return the bound on a norm whose square is added to a sum."""
    return largest_squarable(length.root.dtype, TERMS)


def added(f, *trees):
    """The sum of `f` over the elements of every leaf."""
    return jax.tree.map(lambda *leaves: jnp.sum(f(*leaves)), *trees)


def divisor(x):
    """`x`, or 1 where it is 0: nothing was summed yet, and what is divided by it is 0 as well."""
    return jnp.where(x == 0, 1.0, x)


def betas_pair(who, betas):
    """Return `betas`, or refuse what is not a pair."""
    if not (isinstance(betas, (tuple, list)) and len(betas) == 2):
        raise ValueError(f"{who}: betas must be a pair of numbers, got {betas!r}.")
    return betas


def first_estimate(estim_lr0, params):
    """The estimate and its numerator before the first step."""
    dtype = sum_dtype(params)
    return tree.fresh(estim_lr0, dtype), jnp.zeros((), dtype)


def adam_rate(d, learning_rate, betas, count):
    """The estimate times the factor that is given and Adam's bias correction."""
    b1, b2 = (correction(beta, optax.safe_increment(count)) for beta in betas)
    return d * tree.scalar(at(learning_rate, count), d) * tree.scalar(jnp.sqrt(b2) / b1, d)


def weighted_mean(x, old, decay, weight):
    """Return `decay * old + weight * x`."""
    return tree.scalar(decay, old) * old + tree.scalar(weight, old) * x


def clipped_for_sum(gs):
    """Clip gradients for a sum: at another bound, so that XLA fuses this with the sum, not with what reads the rest."""
    return squarable(gs, terms=1.00001)


def inner_product(x, y):
    """Return the real part of `conj(x) y`, number by number."""
    return tree.real_part(jnp.conj(x) * y)
