"""Several arrays as one: many small collectives become a single one."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax


def ravel_arrays(
    arrays: Sequence[jax.Array], lead: int = 0
) -> tuple[jax.Array, Callable[[jax.Array], list[jax.Array]]]:
    """Concatenate arrays of one dtype, and return a function that splits such an array again.

    The function also splits an array with other leading dimensions: what an all-gather of the concatenation returns.

    Args:
      arrays: arrays of one dtype, at least one.
      lead: the number of leading dimensions that the arrays share. They are kept, and the others become one.

    >>> flat, split = ravel_arrays([jnp.ones((2, 2)), jnp.zeros(3)])
    >>> print(flat, [x.shape for x in split(flat)])
    [1. 1. 1. 1. 0. 0. 0.] [(2, 2), (3,)]
    """
    shapes = [x.shape[lead:] for x in arrays]
    ends = list(itertools.accumulate(map(math.prod, shapes)))

    def split(flat: jax.Array) -> list[jax.Array]:
        starts = [0, *ends[:-1]]
        pieces = [lax.slice_in_dim(flat, *bounds, axis=flat.ndim - 1) for bounds in zip(starts, ends, strict=True)]
        return [x.reshape(*flat.shape[:-1], *shape) for x, shape in zip(pieces, shapes, strict=True)]

    rows = [x.reshape(*x.shape[:lead], math.prod(shape)) for x, shape in zip(arrays, shapes, strict=True)]
    return jnp.concatenate(rows, axis=-1), split
