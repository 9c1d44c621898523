"""Assignment problems under Optax's names: match rows to columns at the lowest total cost."""

import jax
import jax.numpy as jnp
import optax.assignment
from jax.core import Tracer
from jax.typing import ArrayLike

from gdjax import exports
from gdjax.fallback import stand_in
from gdjax.tree import wide

__getattr__, __dir__ = stand_in(__name__, exports.HOME)


def hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return the rows and columns of the assignment with the lowest total cost.

    An infinite cost forbids a pair: the result has one only if every assignment does.

    Kuhn, [The Hungarian method](https://doi.org/10.1002/nav.3800020109), 1955.

    Args:
      cost_matrix: the costs, of shape `[rows, columns]`.

    Returns:
      Row indices and column indices, one pair for each index of the smaller dimension. The total cost is
      `cost_matrix[rows, columns].sum()`.

    Raises:
      ValueError: the costs are not a real matrix, or concrete costs contain NaN or -inf.

    >>> costs = jnp.array([[8, 4, 7], [5, 2, 3], [jnp.inf, 6, 7]])
    >>> print(costs[hungarian_algorithm(costs)].sum())
    16.0
    """
    return optax.assignment.hungarian_algorithm(_bounded_costs("hungarian_algorithm", cost_matrix))


def base_hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return the result of `hungarian_algorithm`, by Crouse's method of shortest augmenting paths.

    Crouse, [On implementing 2D rectangular assignment algorithms](https://ieeexplore.ieee.org/document/7738348), 2016.

    Args:
      cost_matrix: the costs, of shape `[rows, columns]`; an infinite cost forbids a pair.

    Returns:
      Row indices and column indices, one pair for each index of the smaller dimension.

    Raises:
      ValueError: the costs are not a real matrix, or concrete costs contain NaN or -inf.

    >>> costs = jnp.array([[8, 4, 7], [5, 2, 3], [9, 6, 7]])
    >>> print(costs[base_hungarian_algorithm(costs)].sum())
    16
    """
    return optax.assignment.base_hungarian_algorithm(_bounded_costs("base_hungarian_algorithm", cost_matrix))


def _bounded_costs(who: str, cost_matrix: ArrayLike) -> jax.Array:
    """Return finite costs, so small that no sum overflows; with infinite costs, the search would never end.

    In traced costs, NaN and -inf forbid a pair.

    Raises:
      ValueError: see `hungarian_algorithm`.
    """
    costs = jnp.asarray(cost_matrix)
    if costs.ndim != 2 or jnp.iscomplexobj(costs):
        raise ValueError(f"{who}: cost_matrix must be a real matrix, got shape {costs.shape} of {costs.dtype}.")
    if not costs.size or not jnp.issubdtype(costs.dtype, jnp.floating):
        return costs
    if not isinstance(costs, Tracer) and not (costs > -jnp.inf).all():
        raise ValueError(f"{who}: cost_matrix must not hold NaN or -inf.")
    costs = costs.astype(wide(costs.dtype))
    allowed = jnp.isfinite(costs)
    costs = costs / jnp.maximum(jnp.max(jnp.where(allowed, jnp.abs(costs), 0)) / 1e30, 1)
    lowest, highest = (jnp.min(costs, where=allowed, initial=0), jnp.max(costs, where=allowed, initial=0))
    return jnp.where(allowed, costs, highest + (highest - lowest + 1) * min(costs.shape))
