"""Weighted means over micro-batches and over the devices of an axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax import axes, tree
from gdjax.concrete import require_nonnegative
from gdjax.tree import Tree
from gdjax.weighted_means import mean_factors, scale_by_factor, total_weight

Weight = Callable[[Any], Any]
"""A function of a micro-batch that returns its weight, a real scalar."""


class Shares(NamedTuple):
    """Shares of micro-batches and of devices in a weighted mean; the average share is 1."""

    micro_batches: jax.Array
    """The share of each micro-batch of this device, of shape (accumulate,); their mean is 1."""
    device: jax.Array
    """The share of this device, of shape (); the mean over the axis is 1."""
    total: jax.Array
    """The sum of all weights, of shape ()."""


def local_shares(weights: jax.Array, axis_name: axes.AxisName = None) -> Shares:
    """Turn the weights of this device's micro-batches into shares."""
    weight = weights.sum()
    return Shares(
        mean_factors(weights, None), mean_factors(weight, axis_name), total_weight("make_step", weight, axis_name)
    )


def global_shares(weights: jax.Array) -> Shares:
    """Turn weights of shape (devices, accumulate) into the shares of all devices."""
    micro_batches = jax.vmap(lambda local: mean_factors(local, None))(weights)
    return Shares(micro_batches, mean_factors(weights.sum(1), None), weights.sum())


def batch_weight(weight: Weight, batch: Tree) -> jax.Array:
    """Return the weight of a batch, of shape (1,)."""
    return jnp.expand_dims(_checked_weight(weight, batch), 0)


def micro_batch_weights(weight: Weight, micro_batches: Tree) -> jax.Array:
    """Return the weights of micro-batches stacked along a first axis; only one is in memory at a time."""
    return jax.lax.map(lambda micro_batch: _checked_weight(weight, micro_batch), micro_batches)


def _checked_weight(weight: Weight, batch: Any) -> jax.Array:
    value = weight(batch)
    if jnp.shape(value) or jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise ValueError(f"make_step: weight must return a real scalar, got {tree.short(jnp.asarray(value))}.")
    require_nonnegative("make_step: the number that weight returns", value)
    return jnp.asarray(value, float)


def mean_or_last(stacked: jax.Array, shares: jax.Array | None = None) -> jax.Array:
    """Return the mean of floats along the first axis, weighted by shares if given; the last of all other types."""
    if not is_float(stacked):
        return stacked[-1]
    if shares is None:
        return stacked.mean(0)
    return scale_by_factor(shares.reshape(-1, *[1] * (stacked.ndim - 1)), stacked).mean(0).astype(stacked.dtype)


def is_float(x: ArrayLike) -> bool:
    """Return whether an array is floating or complex, so that its mean has its dtype."""
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)
