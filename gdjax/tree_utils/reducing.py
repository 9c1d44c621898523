"""Reductions of a tree to one number."""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.norms import global_norm
from gdjax.tree import Tree, abs_sq, as_dtype, path, wide


@explain_errors("tree.sum")
def tree_sum(tree: Tree, associative_reduction: bool = False) -> jax.Array | int:
    """Return the sum of all elements: float32 for 16-bit leaves, an integer for integers, 0 for an empty tree.

    Args:
      tree: a tree of arrays or numbers.
      associative_reduction: add the sums of the leaves in pairs, which compiles faster for many leaves.

    >>> print(tree_sum({"w": jnp.array([60000.0, 60000.0], jnp.float16), "b": 1.0}))
    120001.0
    """
    sums = [jnp.sum(_upcast(x)) for x in jax.tree.leaves(tree)]
    if associative_reduction:
        return jax.tree.reduce_associative(operator.add, sums, identity=0)
    return functools.reduce(operator.add, sums) if sums else 0


@explain_errors("tree.vdot")
def tree_vdot(tree_x: Tree, tree_y: Tree) -> jax.Array | int:
    """Return the inner product `sum(conj(x) y)` of two trees, in float32 for 16-bit leaves.

    Args:
      tree_x: a tree of arrays or numbers.
      tree_y: a tree of the same structure and shapes.

    Raises:
      ValueError: two shapes differ; the message names the leaf.

    >>> print(tree_vdot({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}))
    11.0
    """

    def dot(keys: KeyPath, x: ArrayLike, y: ArrayLike) -> jax.Array:
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(f"tree.vdot: {path(keys) or 'the leaf'} has shapes {jnp.shape(x)} and {jnp.shape(y)}.")
        return jnp.sum(jnp.conj(_upcast(x)) * _upcast(y))

    return tree_sum(jax.tree_util.tree_map_with_path(dot, tree_x, tree_y))


@explain_errors("tree.norm")
def tree_norm(tree: Tree, ord: int | str | float | None = None, squared: bool = False) -> jax.Array:
    """Return a norm of all elements as one vector, in float32 or wider; an empty tree has norm 0.

    The Euclidean norm is `gdjax.global_norm`, whose derivative at 0 is 0.

    Args:
      tree: a tree of arrays or numbers.
      ord: 2 or `None` for the Euclidean norm, 1 for the sum of absolute values, `inf` for their maximum.
      squared: return the square of the norm.

    Raises:
      ValueError: `ord` is none of these.

    >>> print(tree_norm(jnp.array([300.0, 400.0], jnp.float16)), tree_norm(jnp.array([3.0, -4.0]), ord=1))
    500.0 7.0
    """
    if ord is None or ord == 2:
        return (
            jnp.asarray(tree_sum(jax.tree.map(lambda x: abs_sq(_upcast_to_floating(x)), tree)), float)
            if squared
            else global_norm(tree)
        )
    sizes = [jnp.abs(_upcast_to_floating(x)) for x in jax.tree.leaves(tree)]
    if ord == 1:
        norm = jnp.asarray(tree_sum(sizes), float)
    elif ord in (jnp.inf, "inf", "infinity"):
        norm = functools.reduce(jnp.maximum, [jnp.max(x, initial=0) for x in sizes], jnp.zeros(()))
    else:
        raise ValueError(f"tree.norm: ord must be None, 1, 2 or inf, got {ord!r}.")
    return jnp.square(norm) if squared else norm


@explain_errors("tree.max")
def tree_max(tree: Tree) -> jax.Array | float:
    """Return the largest element, in the dtype of the leaves; -inf for an empty tree.

    Args:
      tree: a tree of real arrays or numbers.

    >>> print(tree_max({"w": jnp.array([3, 16777217]), "b": jnp.array(5)}))
    16777217
    """
    return _reduce_leaves(jnp.max, jnp.maximum, tree, -jnp.inf)


@explain_errors("tree.min")
def tree_min(tree: Tree) -> jax.Array | float:
    """Return the smallest element, in the dtype of the leaves; inf for an empty tree.

    Args:
      tree: a tree of real arrays or numbers.

    >>> print(tree_min({"w": jnp.array([3.0, -1.0]), "b": jnp.array(5.0)}))
    -1.0
    """
    return _reduce_leaves(jnp.min, jnp.minimum, tree, jnp.inf)


def _reduce_leaves(
    reduce: Callable[..., jax.Array], combine: Callable[..., jax.Array], tree: Tree, empty: float
) -> jax.Array | float:
    reduced = [reduce(x) for x in jax.tree.leaves(tree) if jnp.size(x)]
    return functools.reduce(combine, reduced) if reduced else empty


def _upcast(x: ArrayLike) -> jax.Array:
    """Return an array in the dtype in which it is summed; integers stay integers."""
    is_inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return as_dtype(x, wide(jnp.dtype(jnp.result_type(x)))) if is_inexact else jnp.asarray(x)


def _upcast_to_floating(x: ArrayLike) -> jax.Array:
    return as_dtype(x, wide(jnp.dtype(jnp.result_type(x))))
