"""Steps that `quantized_mean` and `low_rank_mean` share: checks, weights, and leaves as real numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax import axes, tree
from gdjax.collectives.local_grads import require_local_grads
from gdjax.tree import Tree
from gdjax.weighted_means import scale_for_mean


def compressing_transform(
    who: str,
    axis_name: axes.AxisName,
    init: Callable[[Any], Any],
    mean: Callable[[Any, Any], tuple[Any, Any]],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the pair `(init, update)` of a compressed mean.

    Args:
      who: the name of the transform, for its errors.
      axis_name: the axis.
      init: `init(params)` returns the state.
      mean: `mean(updates, state)` returns the mean of updates in float32 or wider, and the new state.
    """

    def checked_init(params):
        axes.require_bound(axis_name)
        return init(params)

    def update(updates, state, params=None, *, weight=None):
        require_local_grads(who, updates, axis_name)
        require_unsharded(who, updates)
        wide = tree.widen(updates)
        if weight is not None:
            wide = scale_for_mean(who, wide, weight, axis_name)
        means, state = mean(wide, state)
        return tree.cast_like(means, updates), state

    return checked_init, update


def require_unsharded(who: str, updates: Tree) -> None:
    """Refuse leaves that are sharded over an Explicit axis, by path: to concatenate them XLA would gather them.

    The per-device arrays inside `shard_map` are not sharded in this sense.
    """
    for path, leaf in tree.leaves_with_paths(updates):
        if any(spec := jax.typeof(leaf).sharding.spec):
            where = f"updates at {path!r}" if path else "updates"
            raise ValueError(
                f"{who}: {where} must not be sharded by its type, got {spec}. Name every axis of the mesh in "
                "shard_map(axis_names=), or make the others Auto."
            )


def group_by_other_axes(leaves: Sequence[Any], axis_name: axes.AxisName) -> list[list[int]]:
    """Group the indices of leaves by the further axes over which they vary: a group may become one array."""
    groups: dict[frozenset[Any], list[int]] = {}
    for place, leaf in enumerate(leaves):
        groups.setdefault(other_axes(leaf, axis_name), []).append(place)
    return [groups[over] for over in sorted(groups, key=lambda over: sorted(map(str, over)))]


def other_axes(x: ArrayLike, axis_name: axes.AxisName) -> frozenset[Any]:
    """Return the axes besides this one over which an array varies by its type."""
    return axes.varying_axes(x) - frozenset(axes.names(axis_name))


def real_count(x: ArrayLike) -> int:
    """Return the number of real numbers in an array: a complex element is two."""
    return math.prod(jnp.shape(x)) * (2 if jnp.iscomplexobj(x) else 1)


def to_reals(x: jax.Array) -> jax.Array:
    """Return an array as real numbers: a complex one gets a new last dimension of real and imaginary parts."""
    return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def from_reals(numbers: jax.Array, like: jax.Array) -> jax.Array:
    """Return real numbers as an array with the shape and dtype of `like`."""
    if not jnp.iscomplexobj(like):
        return numbers.reshape(like.shape).astype(like.dtype)
    pairs = numbers.reshape(*like.shape, 2)
    return jax.lax.complex(pairs[..., 0], pairs[..., 1]).astype(like.dtype)
