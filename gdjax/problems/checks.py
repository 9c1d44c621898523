"""Checks of sizes and batches."""

import jax
import jax.numpy as jnp

from gdjax.tree import Tree
from gdjax.value.printing import text

MAX_SIZE = 2**31 - 1
"""The largest size of a problem: JAX counts the elements of an axis in 32 bits."""


def require_sizes(who: str, least: int, **sizes: int) -> None:
    """Reject sizes that are not integers, too small, or larger than `MAX_SIZE`."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(f"{who}: {name} must be an integer of at least {least}, got {text(size)}.")
        if size > MAX_SIZE:
            raise ValueError(f"{who}: {name} must be at most {MAX_SIZE:,}, got {text(size)}.")


def could_be_rows(batch: Tree, train: Tree) -> bool:
    """Return whether the structure and shapes of a batch fit rows of the data."""
    if jax.tree.structure(batch) != jax.tree.structure(train):
        return False
    batch_shapes, train_shapes = (list(map(jnp.shape, jax.tree.leaves(x))) for x in (batch, train))
    same_rows = all(a[1:] == b[1:] for a, b in zip(batch_shapes, train_shapes, strict=True))
    return same_rows and len({shape[:1] for shape in batch_shapes}) == 1


def format_shapes(tree: Tree, rows: str = "") -> str:
    """Format a tree of arrays as `(float32[n,64], int32[n])`, with a name for the leading axis if one is given."""

    def format_leaf(leaf):
        shape = list(map(str, jnp.shape(leaf)))
        return f"{jnp.result_type(leaf)}[{','.join([rows, *shape[1:]] if rows else shape)}]"

    return str(jax.tree.map(format_leaf, tree)).replace("'", "")
