"""Leaves that travel together, as real numbers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import axes, tree


def groups(leaves: Sequence[Any], axis_name: axes.AxisName) -> list[list[int]]:
    """The places of leaves that may lie in one array: types say that they differ over the same further axes."""
    found: dict[frozenset[Any], list[int]] = {}
    for place, leaf in enumerate(leaves):
        found.setdefault(further(leaf, axis_name), []).append(place)
    return [found[over] for over in sorted(found, key=lambda over: sorted(map(str, over)))]


def require_whole(who: str, updates: Any) -> None:
    """Refuse leaves that are sharded by their types, by path: in one array with others they would have to be gathered.

    The members' own parts of `shard_map` are whole leaves to it.
    """
    for path, leaf in tree.leaves_with_paths(updates):
        if any(spec := jax.typeof(leaf).sharding.spec):
            where = f"updates at {path!r}" if path else "updates"
            raise ValueError(
                f"{who}: {where} must not be sharded by its type, got {spec}. Name every axis of the mesh in "
                "shard_map(axis_names=), or make the others Auto."
            )


def further(x: Any, axis_name: axes.AxisName) -> frozenset[Any]:
    """The axes beside this one over which an array differs by its type."""
    return axes.varying_axes(x) - frozenset(axes.names(axis_name))


def number(x: Any) -> int:
    """How many real numbers an array is."""
    return math.prod(jnp.shape(x)) * (2 if jnp.iscomplexobj(x) else 1)


def reals(x: jax.Array) -> jax.Array:
    """An array as real numbers: both parts of a complex one along a new last axis."""
    return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def from_reals(numbers: jax.Array, like: jax.Array) -> jax.Array:
    """Real numbers as an array of the shape and the dtype of another."""
    if not jnp.iscomplexobj(like):
        return numbers.reshape(like.shape).astype(like.dtype)
    pairs = numbers.reshape(*like.shape, 2)
    return jax.lax.complex(pairs[..., 0], pairs[..., 1]).astype(like.dtype)
