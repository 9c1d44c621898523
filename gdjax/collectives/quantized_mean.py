"""Mean of gradients over an axis in 8-bit integers, with error feedback: DoubleSqueeze."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gdjax import axes, tree
from gdjax.collectives.compression import (
    compressing_transform,
    from_reals,
    group_by_other_axes,
    other_axes,
    real_count,
    to_reals,
)
from gdjax.collectives.local_grads import require_axis_name
from gdjax.raveling import ravel_arrays
from gdjax.value import transform

BLOCK = 256
"""Numbers that share a scale."""
LEVELS = 127
"""Largest integer; the integers are symmetric about 0."""


class QuantizedMeanState(NamedTuple):
    """State of `quantized_mean`: rounding errors, to be added to the next gradients."""

    error: optax.Updates
    """$e_i$, the rounding error of this device's gradients, shaped like the parameters, float32 or wider."""
    mean_error: tuple[jax.Array, ...]
    """$\\bar e$, the rounding error of the part of the mean that this device computes, of shape (blocks, 256).

    One array, or several if types say that leaves vary over different further axes.
    """


@transform(takes_local_grads=True)
def quantized_mean(axis_name: axes.AxisName):
    r"""Take the mean of gradients over a named axis in 8-bit integers, and add what rounding lost to the next gradient.

    $Q$ rounds each block of 256 numbers of a leaf to integers from -127 to 127 times one float32 scale,
    $\max |x| / 127$. For device $i$ of $N$, $v_i = g_i + e_i$ and $e_i \leftarrow v_i - Q(v_i)$. Each device computes
    $1/N$ of the mean, $\bar v = \frac{1}{N} \sum_i Q(v_i) + \bar e$ and $\bar e \leftarrow \bar v - Q(\bar v)$; the
    update is $Q(\bar v)$.

    By this error feedback the sum of the updates stays within a bound of the sum of the true means. All devices get the
    same updates, bit for bit. A complex element is two real numbers. If a mean is not finite, neither is the update,
    and the state stays as it was. As in `mean_over`, `update(..., weight=w)` takes the weighted mean.

    On the wire: one all-to-all and one all-gather, of 65/64 bytes a number each. That is 0.254 of a float32 all-reduce
    for every $N$, and more for leaves much smaller than 256 or models smaller than $256 N$.

    State: `QuantizedMeanState(error, mean_error)`, $4 + 4/N$ bytes a parameter (twice that in float64). It is
    per-device: call `init` within the axis too.
    Source: Tang et al. 2019, algorithm 1 (https://arxiv.org/abs/1905.05957); the mean is divided among devices as in
    Tang et al. 2021, section 4.1 (https://arxiv.org/abs/2102.02888).

    Args:
      axis_name: the axis of `vmap`, `pmap` or `shard_map` over which gradients are per-device. A tuple of names is one
        axis, except under nested `vmap`, where JAX gathers over single names only.

    Raises:
      ValueError: if the axis is not bound; if the type of a gradient is invariant over the axis, as in `mean_over`, or
        sharded over an Explicit axis.

    >>> import jax, gdjax as gd, jax.numpy as jnp
    >>> tx = gd.quantized_mean("data")
    >>> def mean(g):
    ...     return tx.update(g, tx.init(g))[0]
    >>> print(jax.vmap(mean, axis_name="data")(jnp.array([[127.0, 2.4], [-27.0, 7.6]])).round(2))
    [[50.    4.72]
     [50.    4.72]]
    """
    axis_name = require_axis_name("quantized_mean", axis_name)

    def init(params):
        leaves = jax.tree.leaves(tree.filled(params))
        groups = group_by_other_axes(leaves, axis_name)
        mean_error = tuple(_zero_mean_error([leaves[place] for place in places], axis_name) for places in groups)
        return axes.mark_varying(QuantizedMeanState(tree.accumulators(params, 0), mean_error), axis_name)

    def mean(updates, state):
        absent, filled = tree.absent_leaves(updates), tree.filled(updates)
        leaves, treedef = jax.tree.flatten(filled)
        errors, mean_errors = treedef.flatten_up_to(tree.filled(state.error)), list(state.mean_error)
        for group, places in enumerate(group_by_other_axes(leaves, axis_name)):
            corrected = [leaves[place] + errors[place] for place in places]
            means, lost, mean_lost, finite = _quantized_mean(corrected, mean_errors[group], axis_name)
            changed = finite
            if any(absent[place] for place in places):
                present = [not absent[place] for place in places]
                changed &= _is_row_of_flagged(corrected, present, axes.size(axis_name))[axes.axis_index(axis_name)]
            mean_errors[group] = jnp.where(changed, mean_lost, mean_errors[group])
            for place, leaf, error in zip(places, means, lost, strict=True):
                leaves[place], errors[place] = leaf, jnp.where(finite, error, errors[place])
        means, errors = tree.emptied((treedef.unflatten(leaves), treedef.unflatten(errors)), (updates, updates))
        return means, QuantizedMeanState(errors, tuple(mean_errors))

    return compressing_transform("quantized_mean", axis_name, init, mean)


def _quantized_mean(leaves, mean_error, axis_name):
    """Return the means of leaves, the error of each leaf, the error of this device's part, and whether all is finite.

    Every device sends block $j$ of its leaves to device $j$, which returns the mean to all.
    """

    def scatter(x):
        return lax.all_to_all(x, axis_name, split_axis=0, concat_axis=0, tiled=True)

    def gather(x):
        return axes.all_gather(x, axis_name)

    blocks, unblock = to_blocks(leaves, axes.size(axis_name))
    received, lost, _ = _send_quantized(blocks, scatter)
    means, mean_lost, finite = _send_quantized((received.mean(0) + mean_error)[None], gather)
    return unblock(means), unblock(lost), mean_lost[0], finite


def _send_quantized(x, send):
    """Return the numbers received from all devices, the rounding error of those sent, and whether all is finite.

    Integers and scales travel in one collective.
    """
    codes, scales = quantize(x)
    sent, split = ravel_arrays([codes, lax.bitcast_convert_type(scales, jnp.int8)], lead=1)
    all_codes, scale_bytes = split(send(sent))
    all_scales = lax.bitcast_convert_type(scale_bytes, jnp.float32)
    received = dequantize(all_codes, all_scales, x.dtype)
    return received, x - dequantize(codes, scales, x.dtype), jnp.isfinite(all_scales).all()


def quantize(x):
    """Return the integers of each block of 256 numbers, and its float32 scale: NaN if one number is not finite."""
    finite = jnp.isfinite(x).all(-1)  # a maximum on a CPU may ignore NaN
    scales = jnp.where(finite, jnp.abs(x).max(-1).astype(jnp.float32) * np.float32(1 / LEVELS), jnp.nan)
    scales = jnp.where(scales < jnp.finfo(jnp.float32).tiny, 0.0, scales)  # a subnormal cannot divide: round to 0
    codes = jnp.round(x / jnp.where(scales > 0, scales, 1.0).astype(x.dtype)[..., None])
    return jnp.clip(codes, -LEVELS, LEVELS).astype(jnp.int8), scales


def dequantize(codes, scales, dtype):
    """Return the numbers that integers and their scales represent."""
    return codes.astype(dtype) * scales.astype(dtype)[..., None]


def to_blocks(leaves, size) -> tuple[jax.Array, Callable[[jax.Array], list[jax.Array]]]:
    """Return leaves as real numbers of shape (devices, blocks, 256), and a function that returns leaves of such blocks.

    Each leaf is padded with zeros to full blocks, and all leaves to the same number of blocks for every device.
    """
    dtype = jnp.result_type(*[to_reals(x) for x in leaves])
    flat, split = ravel_arrays([_pad(to_reals(x).astype(dtype).ravel(), _rows(x) * BLOCK) for x in leaves])
    blocks = _pad(flat, size * _rows_per_device(leaves, size) * BLOCK).reshape(size, -1, BLOCK)

    def unblock(blocks):
        pieces = zip(split(blocks.reshape(-1)), leaves, strict=True)
        return [from_reals(numbers[: real_count(leaf)], leaf) for numbers, leaf in pieces]

    return blocks, unblock


def _is_row_of_flagged(leaves, flags, size):
    """Return, for every device and each block of its part, whether the block belongs to a flagged leaf."""
    rows = np.concatenate([np.full(_rows(x), flag) for x, flag in zip(leaves, flags, strict=True)])
    return _pad(rows, size * _rows_per_device(leaves, size)).reshape(size, -1, 1)


def _zero_mean_error(leaves, axis_name):
    dtype = jnp.result_type(*[jnp.finfo(tree.wide(jnp.result_type(x))).dtype for x in leaves])
    zeros = jnp.zeros((_rows_per_device(leaves, axes.size(axis_name)), BLOCK), dtype)
    return axes.cast_varying(zeros, other_axes(leaves[0], axis_name))


def _rows(x):
    """Return the number of blocks of a leaf."""
    return math.ceil(real_count(x) / BLOCK)


def _rows_per_device(leaves, size):
    """Return the number of blocks of which each device computes the mean, at least 1."""
    return max(math.ceil(sum(map(_rows, leaves)) / size), 1)


def _pad(x, length):
    """Return an array with zeros at the end of its first axis."""
    return jnp.pad(x, [(0, length - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
