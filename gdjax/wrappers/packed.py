"""Pack small leaves into one buffer."""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gdjax import axes, tree, xla
from gdjax.raveling import ravel_arrays
from gdjax.value import transform
from gdjax.value.gradient_transform import require_value
from gdjax.value.traits import find_lacking


@transform(any_dtype=False, shardable=True)
def packed(inner: optax.GradientTransformation, below: int = 4096):
    """Pack the state of small leaves into one buffer per accumulation dtype.

    With hundreds of small leaves, a step spends its time on dispatching buffers, and its compilation on a loop for each
    leaf. Packed, they share one buffer and one loop. Results are the same in float32 and wider; 16-bit results are
    rounded once, at the end. Only sizes and dtypes decide which leaves are packed; leaves with a sharded type are not.
    Put transforms that treat leaves differently around it: `accumulate(packed(adamw(1e-3)), 8)`,
    `schedule_free(packed(sgd(0.1)), 0.1)`.

    State: that of the inner transform for trees `{"packed": {dtype: buffer}, "apart": [leaves]}`, of the same size.

    Args:
      inner: a transform that treats all leaves as one vector: elementwise, or by norms of all leaves. Its factory
        declares this by `transform(packable=True)`. It must not have a mask.
      below: the size from which a leaf is not packed, at least 1.

    Raises:
      ValueError: if a part of the inner transform treats leaves differently; the message names it.

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
    _require_packable(inner)

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


def _require_packable(tx: Any) -> None:
    """Reject a transform that treats leaves differently, and name the part that does."""
    require_value("packed", tx)
    if (part := find_lacking(tx, _is_packable)) is not None:
        raise ValueError(
            f"packed: inner must treat all leaves as one vector, and {part.factory.__name__} treats them differently"
            f"{' by its mask' if _is_masked(part) else ''}. Pack the transform within it, or its neighbors in a chain. "
            "If you wrote it and it treats all leaves alike, declare transform(packable=True)."
        )


def _is_packable(tx):
    return tx.factory.traits.packable and not _is_masked(tx)


def _is_masked(tx):
    return tx.arguments.get("mask") is not None


def _layout(like, below):
    """Return the indices of the packed leaves by accumulation dtype; the other leaves are not packed.

    Leaves whose types vary over an axis and leaves whose types do not go into separate buffers.
    """
    groups = collections.defaultdict(list)
    for place, leaf in enumerate(jax.tree.leaves(tree.filled(like))):
        if math.prod(jnp.shape(leaf)) < below and not any(jax.typeof(leaf).sharding.spec):
            over = "".join(f" over {name}" for name in sorted(map(str, axes.varying_axes(leaf))))
            groups[f"{tree.wide(jnp.result_type(leaf))}{over}"].append(place)
    return dict(groups)


def _pack(unpacked, layout):
    leaves, numbers = jax.tree.leaves(unpacked, is_leaf=tree.is_absent), jax.tree.leaves(tree.filled(unpacked))
    packed = {
        kind: ravel_arrays([tree.as_dtype(numbers[place], jnp.dtype(kind.split()[0])) for place in places])[0]
        for kind, places in layout.items()
    }
    packed_places = {place for places in layout.values() for place in places}
    return {"packed": packed, "apart": [leaf for place, leaf in enumerate(leaves) if place not in packed_places]}


def _unpack(parts, layout, like):
    leaves, treedef = jax.tree.flatten(tree.filled(like))
    arrays = {}
    for kind, places in layout.items():
        sizes = [math.prod(jnp.shape(leaves[place])) for place in places]
        for place, size, start in zip(places, sizes, xla.hidden_starts(sizes), strict=True):
            array = lax.dynamic_slice(parts["packed"][kind], (start,), (size,))
            arrays[place] = array.reshape(jnp.shape(leaves[place]))
    apart = iter(parts["apart"])
    unpacked = treedef.unflatten([arrays[place] if place in arrays else next(apart) for place in range(len(leaves))])
    return tree.emptied(unpacked, like)


def _keep_absent(updates, layout, state, new):
    """Keep the old state of packed leaves that have no update."""
    absent, numbers = tree.absent_leaves(updates), jax.tree.leaves(tree.filled(updates))
    flags = {
        kind: np.concatenate([np.full(numbers[place].size, absent[place]) for place in places])
        for kind, places in layout.items()
    }

    def keep(old, new):
        if not _is_packed(old):
            return new
        buffers = {
            kind: jnp.where(flag, x, new["packed"][kind]) if jnp.shape(x) == flag.shape else new["packed"][kind]
            for kind, x, flag in ((kind, x, flags[kind]) for kind, x in old["packed"].items())
        }
        return new | {"packed": buffers}

    return jax.tree.map(keep, state, new, is_leaf=_is_packed)


def _is_packed(node):
    return isinstance(node, dict) and node.keys() == {"packed", "apart"}
