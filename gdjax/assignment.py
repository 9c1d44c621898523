"""Assignment problems, by Optax's names: which row gets which column, at the least cost."""

import jax
import jax.numpy as jnp
import optax.assignment
from jax.core import Tracer
from jax.typing import ArrayLike

from gdjax.fallback import stand_in
from gdjax.tree import wide

__getattr__, __dir__ = stand_in(__name__)


def hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return the rows and the columns of the assignment whose sum of costs is the least.

    A cost of infinity forbids a pair: it is used only if every assignment needs one. Kuhn,
    [The Hungarian method](https://doi.org/10.1002/nav.3800020109), 1955.

    Args:
      cost_matrix: the costs, of shape `[rows, columns]`.

    Returns:
      Indices of rows and of columns, as many as the smaller dimension; their cost is `cost_matrix[rows,
      columns].sum()`.

    Raises:
      ValueError: if the costs are not a real matrix, or are known to hold NaN or minus infinity.

    >>> costs = jnp.array([[8, 4, 7], [5, 2, 3], [jnp.inf, 6, 7]])
    >>> print(costs[hungarian_algorithm(costs)].sum())
    16.0
    """
    return optax.assignment.hungarian_algorithm(_finite("hungarian_algorithm", cost_matrix))


def base_hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return what `hungarian_algorithm` does, by Crouse's implementation with shortest augmenting paths.

    Crouse, [On implementing 2D rectangular assignment algorithms](https://ieeexplore.ieee.org/document/7738348), 2016.

    Args:
      cost_matrix: the costs, of shape `[rows, columns]`; a cost of infinity forbids a pair.

    Returns:
      Indices of rows and of columns, as many as the smaller dimension.

    Raises:
      ValueError: if the costs are not a real matrix, or are known to hold NaN or minus infinity.

    >>> costs = jnp.array([[8, 4, 7], [5, 2, 3], [9, 6, 7]])
    >>> print(costs[base_hungarian_algorithm(costs)].sum())
    16
    """
    return optax.assignment.base_hungarian_algorithm(_finite("base_hungarian_algorithm", cost_matrix))


def _finite(who: str, cost_matrix: ArrayLike) -> jax.Array:
    """Make costs finite and so small that no sum overflows: a search among infinities would never end.

    Raises:
      ValueError: see `hungarian_algorithm`. In traced costs, NaN and minus infinity forbid a pair.
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
    least, most = (jnp.min(costs, where=allowed, initial=0), jnp.max(costs, where=allowed, initial=0))
    return jnp.where(allowed, costs, most + (most - least + 1) * min(costs.shape))
