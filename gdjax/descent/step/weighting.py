"""Weighted means over micro-batches, and over the members of an axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import axes, tree
from gdjax.concrete import require_nonnegative
from gdjax.weighted_means import mean_factors, scale_by_factor, total_weight

Weight = Callable[[Any], Any]
"""A function of a micro-batch that returns its weight, a real scalar."""


class Shares(NamedTuple):
    """Shares of micro-batches and of members in a mean; the average share is 1."""

    parts: jax.Array
    """The share of each micro-batch of this member, of shape (accumulate,): the mean is 1."""
    member: jax.Array
    """The share of this member, of shape (): the mean over the axis is 1."""
    total: jax.Array
    """The sum of all weights, of shape ()."""


def shares_of(weights: jax.Array, axis_name: axes.AxisName = None) -> Shares:
    """Turn the weights of this member's micro-batches into shares."""
    own = weights.sum()
    return Shares(mean_factors(weights, None), mean_factors(own, axis_name), total_weight("make_step", own, axis_name))


def shares_of_all(weights: jax.Array) -> Shares:
    """Return the shares of all members, which lie along the first axis of the weights."""
    of_parts = jax.vmap(lambda own: mean_factors(own, None))(weights)
    return Shares(of_parts, mean_factors(weights.sum(1), None), weights.sum())


def weights_of(weight: Weight, batch: Any) -> jax.Array:
    """Return the weight of a batch, of shape (1,)."""
    return jnp.expand_dims(_checked(weight, batch), 0)


def weights_of_parts(weight: Weight, parts: Any) -> jax.Array:
    """Return the weights of micro-batches, which lie along a first axis; only one is in memory at a time."""
    return jax.lax.map(lambda part: _checked(weight, part), parts)


def _checked(weight: Weight, batch: Any) -> jax.Array:
    found = weight(batch)
    if jnp.shape(found) or jnp.issubdtype(jnp.result_type(found), jnp.complexfloating):
        raise ValueError(f"make_step: weight must return a real scalar, got {tree.short(jnp.asarray(found))}.")
    require_nonnegative("make_step: the number that weight returns", found)
    return jnp.asarray(found, float)


def mean_or_last(stacked: jax.Array, shares: jax.Array | None = None) -> jax.Array:
    """Return the mean of floats along the first axis, by shares if given; of anything else the last."""
    if not is_float(stacked):
        return stacked[-1]
    if shares is None:
        return stacked.mean(0)
    return scale_by_factor(shares.reshape(-1, *[1] * (stacked.ndim - 1)), stacked).mean(0).astype(stacked.dtype)


def is_float(x: Any) -> bool:
    """Return whether an array is floating or complex, so that its mean has its dtype."""
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)
