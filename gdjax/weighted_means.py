r"""Weighted means over an axis, $\sum_i w_i x_i / \sum_i w_i$, as plain means of scaled values."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax import axes
from gdjax.concrete import require_nonnegative
from gdjax.tree import Tree


def mean_factors(weights: ArrayLike, axis_name: axes.AxisName) -> jax.Array:
    """Return the factors that turn a plain mean into the weighted mean: `weights / mean(weights)`.

    The mean is over an array of weights and over an axis. If all weights are 0, so are the factors.
    """
    local = axes.mark_varying(jnp.asarray(weights, float), axis_name)
    total = axes.psum(local.sum(), axis_name)
    return local * (local.size * axes.size(axis_name)) / jnp.where(total == 0, 1.0, total)


def scale_by_factor(factor: jax.Array, x: jax.Array) -> jax.Array:
    """Return `factor * x` in float32 or wider; a factor of 0 gives 0 even if `x` is not finite."""
    wide = x.astype(axes.sum_dtype(x.dtype))
    return jnp.where(factor == 0, 0, factor.astype(jnp.finfo(wide.dtype).dtype) * wide)


def scale_for_mean(who: str, values: Tree, weight: ArrayLike, axis_name: axes.AxisName) -> Tree:
    """Scale the leaves of each device so that their plain mean over an axis is the weighted mean.

    Leaves come out in float32 or wider. A device of weight 0 counts as zeros, whatever its values are.
    """
    factor = mean_factors(require_scalar_weight(who, weight), axis_name)
    return jax.tree.map(lambda x: x if x.dtype == jax.dtypes.float0 else scale_by_factor(factor, x), values)


def total_weight(who: str, weight: ArrayLike, axis_name: axes.AxisName) -> jax.Array:
    """Return the sum over an axis of the weights of its devices."""
    return axes.psum(axes.mark_varying(jnp.asarray(require_scalar_weight(who, weight), float), axis_name), axis_name)


def require_scalar_weight(who: str, weight: ArrayLike) -> ArrayLike:
    """Return a weight, or refuse anything but one number of at least 0."""
    if isinstance(weight, str) or jnp.shape(weight):
        got = repr(weight) if isinstance(weight, str) else f"shape {jnp.shape(weight)}"
        raise ValueError(f"{who}: weight must be a scalar, got {got}.")
    require_nonnegative(f"{who}: weight", weight)
    return weight
