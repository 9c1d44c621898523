"""Named axes, of `vmap`, `pmap` or `shard_map`: who their members are, and what differs among them."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

AxisName = Hashable | Sequence[Hashable] | None
"""A name, several as one axis, or none."""


def names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """The single names of an axis."""
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)


def differing(x: Any) -> frozenset[Any]:
    """The axes over which an array differs by its type."""
    return jax.typeof(x).manual_axis_type.varying


def tracked(axis_name: AxisName) -> frozenset[Any]:
    """The names of an axis for which types tell what differs over it: those of `shard_map` with `check_vma`."""
    return frozenset(name for name in names(axis_name) if name in differing(lax.axis_index(name)))


def is_divided(x: Any, axis_name: AxisName) -> bool:
    """Whether the members of an axis have parts of an array, and not each the same; where no type tells, they have."""
    return bool(names(axis_name)) and tracked(axis_name) <= differing(x)


def vary(values: Any, axis_name: AxisName) -> Any:
    """The same values, that differ over an axis by their types where these keep account of it."""
    known = tracked(axis_name)
    return jax.tree.map(lambda x: cast(x, known), values) if known else values


def cast(x: Any, over: frozenset[Any]) -> Any:
    """An array that differs over some axes by its type, at least."""
    missing = tuple(sorted(over - differing(x), key=str))
    return lax.pcast(x, missing, to="varying") if missing else x


def totals(numbers: Any, like: Any, axis_name: AxisName) -> Any:
    """Sums over an axis of scalars, one of each leaf of `like`; the scalar itself of one that is not divided over it.

    All are added in one collective for each dtype.
    """
    if axis_name is None:
        return numbers
    found, treedef = jax.tree.flatten(numbers)
    divided = [is_divided(leaf, axis_name) for leaf in jax.tree.leaves(like)]
    for dtype in sorted({x.dtype for x in found}, key=str):
        places = [i for i, x in enumerate(found) if divided[i] and x.dtype == dtype]
        if places:
            summed = lax.psum(jnp.stack([found[i] for i in places]), axis_name)
            for at, i in enumerate(places):
                found[i] = summed[at]
    return treedef.unflatten(found)
