"""The mean of gradients over an axis, in integers of 8 bits."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import axes, tree
from gdjax.collectives.together import from_reals, further, groups, number, reals

BLOCK = 256
"""Numbers that share a scale."""
LEVELS = 127
"""The greatest integer; they are symmetric about 0."""


class QuantisedMeanState(NamedTuple):
    """What was rounded away, and goes with the next gradient."""

    error: Any
    """$e_i$, what this member's own gradients lost, shaped like the parameters."""
    mean_error: Any
    """$\\bar e$, what the part of the mean that this member owns lost, of shape (blocks, 256): a tuple of one, or of
    several where types say that leaves differ over unlike further axes."""


def quantised_mean(axis_name: Any) -> tuple[Any, Any]:
    """`(init, update)` of `compressed_mean(bits=8)`, of leaves in their dtypes of accumulation."""

    def init(params):
        leaves = jax.tree.leaves(tree.filled(params))
        owned = [_no_error([leaves[place] for place in places], axis_name) for places in groups(leaves, axis_name)]
        return axes.mark_varying(QuantisedMeanState(tree.accumulators(params, 0), tuple(owned)), axis_name)

    def update(updates, state):
        absent, whole = tree.absent_leaves(updates), tree.filled(updates)
        leaves, treedef = jax.tree.flatten(whole)
        errors, owned = treedef.flatten_up_to(tree.filled(state.error)), list(state.mean_error)
        for group, places in enumerate(groups(leaves, axis_name)):
            own = [leaves[place] + errors[place] for place in places]
            means, lost, mean_lost, finite = _exchanged(own, owned[group], axis_name)
            changed = finite
            if any(absent[place] for place in places):
                flags = [not absent[place] for place in places]
                changed &= _owned_rows(own, flags, axes.size(axis_name))[axes.axis_index(axis_name)]
            owned[group] = jnp.where(changed, mean_lost, owned[group])
            for place, mean, error in zip(places, means, lost, strict=True):
                leaves[place], errors[place] = mean, jnp.where(finite, error, errors[place])
        means, errors = tree.emptied((treedef.unflatten(leaves), treedef.unflatten(errors)), (updates, updates))
        return means, QuantisedMeanState(errors, tuple(owned))

    return init, update


def _exchanged(leaves, mean_error, axis_name):
    """The means of leaves, what each leaf lost, what the owned part of the mean lost, and whether all is finite."""
    own = blocks(leaves, axes.size(axis_name))
    codes, scales = quantised(own)
    of_all = lax.all_to_all(_wire(codes, scales), axis_name, split_axis=0, concat_axis=0, tiled=True)
    mean = restored(*_unwired(of_all, own.shape), own.dtype).mean(0) + mean_error
    mean_codes, mean_scales = quantised(mean)
    parts = axes.all_gather(_wire(mean_codes[None], mean_scales[None]), axis_name)
    all_codes, all_scales = _unwired(parts, own.shape)
    means = unblocked(restored(all_codes, all_scales, own.dtype), leaves)
    lost = unblocked(own - restored(codes, scales, own.dtype), leaves)
    return means, lost, mean - restored(mean_codes, mean_scales, mean.dtype), jnp.isfinite(all_scales).all()


def quantised(x):
    """Integers, and the float32 scale of every 256 of them: NaN where one of the numbers is not finite."""
    finite = jnp.isfinite(x).all(-1)  # a maximum on a CPU may pass over NaN
    scales = jnp.where(finite, jnp.abs(x).max(-1).astype(jnp.float32) * np.float32(1 / LEVELS), jnp.nan)
    scales = jnp.where(scales < jnp.finfo(jnp.float32).tiny, 0.0, scales)  # too small to divide by: all of it waits
    codes = jnp.round(x / jnp.where(scales > 0, scales, 1.0).astype(x.dtype)[..., None])
    return jnp.clip(codes, -LEVELS, LEVELS).astype(jnp.int8), scales


def restored(codes, scales, dtype):
    """The numbers that integers and their scales stand for."""
    return codes.astype(dtype) * scales.astype(dtype)[..., None]


def blocks(leaves, size):
    """Leaves as real numbers of shape (members, blocks, 256), each leaf and the whole filled up with zeros."""
    dtype = jnp.result_type(*[reals(x) for x in leaves])
    rows = [_filled(reals(x).astype(dtype).ravel(), _rows(x) * BLOCK).reshape(-1, BLOCK) for x in leaves]
    return _filled(jnp.concatenate(rows), size * _share(leaves, size)).reshape(size, -1, BLOCK)


def unblocked(x, like):
    """Leaves out of their blocks, in their own precision."""
    rows, found, start = x.reshape(-1, BLOCK), [], 0
    for leaf in like:
        numbers = rows[start : start + _rows(leaf)].ravel()[: number(leaf)]
        found.append(from_reals(numbers, leaf))
        start += _rows(leaf)
    return found


def _owned_rows(leaves, flags, size):
    """Return, for every member and each block it owns, whether the block belongs to a flagged leaf."""
    rows = np.concatenate([np.full(_rows(x), flag) for x, flag in zip(leaves, flags, strict=True)])
    return _filled(rows, size * _share(leaves, size)).reshape(size, -1, 1)


def _no_error(leaves, axis_name):
    dtype = jnp.result_type(*[jnp.finfo(tree.wide(jnp.result_type(x))).dtype for x in leaves])
    zeros = jnp.zeros((_share(leaves, axes.size(axis_name)), BLOCK), dtype)
    return axes.cast_varying(zeros, further(leaves[0], axis_name))


def _rows(x):
    """The blocks of a leaf."""
    return math.ceil(number(x) / BLOCK)


def _share(leaves, size):
    """The blocks that a member owns, one at least."""
    return max(math.ceil(sum(map(_rows, leaves)) / size), 1)


def _filled(x, length):
    """An array with zeros at the end of its first axis."""
    return jnp.pad(x, [(0, length - x.shape[0])] + [(0, 0)] * (x.ndim - 1))


def _wire(codes, scales):
    """What goes to each member, or is its own: all integers, then all scales, as bytes."""
    parts = (codes, lax.bitcast_convert_type(scales, jnp.int8))
    return jnp.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _unwired(sent, shape):
    """Integers and scales of bytes; the integers of a shape."""
    codes, scales = jnp.split(sent, [math.prod(shape[1:])], axis=1)
    return codes.reshape(shape), lax.bitcast_convert_type(scales.reshape(*shape[:-1], 4), jnp.float32)
