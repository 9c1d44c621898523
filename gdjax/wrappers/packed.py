"""Many small leaves as one."""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gdjax import axes, tree
from gdjax.raveling import ravel_arrays
from gdjax.value import transform
from gdjax.value.gradient_transform import require_value
from gdjax.value.traits import find_lacking


@transform(any_dtype=False, shardable=True)
def packed(inner: optax.GradientTransformation, below: int = 4096):
    """Keep the state of small leaves side by side, in one buffer for every dtype of accumulation.

    A step over hundreds of small leaves spends its time on dispatching buffers, and its compilation on a loop for each;
    here there is one for all. The numbers are the same in float32 and wider, and those of 16 bits are rounded once, at
    the end. Sizes and dtypes alone decide what is packed; leaves that are sharded, as their types say, stay apart. What
    tells leaves apart goes around it: `accumulate(packed(adamw(1e-3)), 8)`, `schedule_free(packed(sgd(0.1)), 0.1)`.

    State: that of the inner transform, of trees `{"packed": {dtype: buffer}, "apart": [leaves]}`; as many bytes.

    Args:
      inner: a transform that takes all leaves for one vector: each number for itself, or by norms of the whole. Its
        factory declares it, `transform(packable=True)`, and a mask by leaves takes it back.
      below: the size from which on a leaf stays apart, at least 1.

    Raises:
      ValueError: if the inner transform needs to tell leaves apart, with the part of it that does.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> params = {f"bias{i}": jnp.zeros(3) for i in range(100)}
    >>> len(jax.tree.leaves(gd.adam(0.1).init(params))), len(jax.tree.leaves(gd.packed(gd.adam(0.1)).init(params)))
    (201, 3)
    """
    if isinstance(below, bool) or not hasattr(below, "__index__"):
        raise TypeError(f"packed: below must be an integer, got {below!r}.")
    if below < 1:
        raise ValueError(f"packed: below must be at least 1, got {below}.")
    _require_flat(inner)

    def init(params):
        return inner.init(_pack(params, _layout(params, below)))

    def update(updates, state, params=None, **extra_args):
        if params is not None:
            tree.require_same_shapes(updates, params)
        layout = _layout(updates if params is None else params, below)
        together = None if params is None else _pack(params, layout)
        moved, new = inner.update(_pack(updates, layout), state, together, **extra_args)
        if any(tree.absent_leaves(updates)):
            new = _keep_absent(updates, layout, state, new)
        return tree.cast_like(_unpack(moved, layout, updates), updates), new

    return init, update


def _require_flat(tx: Any) -> None:
    """Refuse a transform that tells leaves apart, by the name of the part that does."""
    require_value("packed", tx)
    if (part := find_lacking(tx, _is_flat)) is not None:
        raise ValueError(
            f"packed: inner must take all leaves for one vector, and {part.factory.__name__} tells them apart"
            f"{' by its mask' if _is_masked(part) else ''}. Pack what stands within it, or beside it in a chain; a "
            "transform of your own says that it takes them so by transform(packable=True)."
        )


def _is_flat(tx):
    return tx.factory.traits.packable and not _is_masked(tx)


def _is_masked(tx):
    return tx.arguments.get("mask") is not None


def _layout(like, below):
    """Return the places of the packed leaves in the tree, by dtype of accumulation; the others stay apart.

    Those that differ over an axis by their types and those that do not are packed each by themselves.
    """
    groups = collections.defaultdict(list)
    for place, leaf in enumerate(jax.tree.leaves(tree.filled(like))):
        if math.prod(jnp.shape(leaf)) < below and not any(jax.typeof(leaf).sharding.spec):
            over = "".join(f" over {name}" for name in sorted(map(str, axes.varying_axes(leaf))))
            groups[f"{tree.wide(jnp.result_type(leaf))}{over}"].append(place)
    return dict(groups)


def _pack(whole, layout):
    leaves, numbers = jax.tree.leaves(whole, is_leaf=tree.is_absent), jax.tree.leaves(tree.filled(whole))
    packed = {
        kind: ravel_arrays([tree.as_dtype(numbers[place], jnp.dtype(kind.split()[0])) for place in places])[0]
        for kind, places in layout.items()
    }
    taken = {place for places in layout.values() for place in places}
    return {"packed": packed, "apart": [leaf for place, leaf in enumerate(leaves) if place not in taken]}


def _unpack(parts, layout, like):
    leaves, treedef = jax.tree.flatten(tree.filled(like))
    found = {}
    for kind, places in layout.items():
        sizes = [math.prod(jnp.shape(leaves[place])) for place in places]
        for place, size, start in zip(places, sizes, _starts(sizes), strict=True):
            found[place] = lax.dynamic_slice(parts["packed"][kind], (start,), (size,)).reshape(jnp.shape(leaves[place]))
    apart = iter(parts["apart"])
    whole = treedef.unflatten([found[place] if place in found else next(apart) for place in range(len(leaves))])
    return tree.emptied(whole, like)


def _keep_absent(updates, layout, state, new):
    """Keep what the state has of packed leaves without an update."""
    absent, numbers = tree.absent_leaves(updates), jax.tree.leaves(tree.filled(updates))
    flags = {
        kind: np.concatenate([np.full(numbers[place].size, absent[place]) for place in places])
        for kind, places in layout.items()
    }

    def of_each(old, new):
        if not _is_packed(old):
            return new
        kept = {
            kind: jnp.where(own, x, new["packed"][kind]) if jnp.shape(x) == own.shape else new["packed"][kind]
            for kind, x, own in ((kind, x, flags[kind]) for kind, x in old["packed"].items())
        }
        return new | {"packed": kept}

    return jax.tree.map(of_each, state, new, is_leaf=_is_packed)


def _is_packed(node):
    return isinstance(node, dict) and node.keys() == {"packed", "apart"}


def _starts(sizes):
    """Return the index at which each leaf starts.

    On a CPU the indices come from a branch whose two sides are equal, so XLA does not know them. It compiles a loop
    anew for every start that it knows, and once for a shape where it does not.
    """
    starts = tuple(np.uint32(start) for start in np.cumsum([0, *sizes[:-1]]))
    return lax.platform_dependent(
        cpu=lambda: lax.cond(lax.optimization_barrier(True), lambda: starts, lambda: starts), default=lambda: starts
    )
