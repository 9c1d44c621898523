"""What of sizes and batches cannot be."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.value.printing import text

LARGEST = 2**31 - 1
"""Largest size of a problem: JAX counts the elements of an axis in 32 bits."""


def at_least(who: str, least: int, **sizes: Any) -> None:
    """Refuse sizes that are not integers, too small, or larger than `LARGEST`."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(f"{who}: {name} must be an integer of at least {least}, got {text(size)}.")
        if size > LARGEST:
            raise ValueError(f"{who}: {name} must be at most {LARGEST:,}, got {text(size)}.")


def may_be_rows(batch: Any, train: Any) -> bool:
    """Whether a batch may be rows of the data."""
    if jax.tree.structure(batch) != jax.tree.structure(train):
        return False
    ours, theirs = (list(map(jnp.shape, jax.tree.leaves(x))) for x in (batch, train))
    return all(a[1:] == b[1:] for a, b in zip(ours, theirs, strict=True)) and len({a[:1] for a in ours}) == 1


def shapes(tree: Any, rows: str = "") -> str:
    """A tree of arrays as `(float32[64,64], int32[64])`, the leading axis by name if it has one."""

    def short(leaf):
        shape = list(map(str, jnp.shape(leaf)))
        return f"{jnp.result_type(leaf)}[{','.join([rows, *shape[1:]] if rows else shape)}]"

    return str(jax.tree.map(short, tree)).replace("'", "")
