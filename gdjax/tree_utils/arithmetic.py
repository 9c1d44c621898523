"""Leafwise arithmetic of pytrees."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jax.typing import ArrayLike, DTypeLike

from gdjax.explaining import explain_errors
from gdjax.tree import Tree, as_dtype, path, wide


@explain_errors("tree.add")
def tree_add(tree_x: Tree, tree_y: Tree, *other_trees: Tree) -> Tree:
    """Return the sum of two or more trees, rounding each leaf once, to the common dtype of its operands.

    Args:
      tree_x: a tree of arrays or numbers.
      tree_y: a tree of the same structure.
      *other_trees: more such trees.

    >>> print(tree_add(jnp.float16(60000), jnp.float16(60000), jnp.float16(-60000)))
    6e+04
    """

    def add(*leaves: Any) -> Any:
        return _round_to(sum(map(_upcast, leaves)), jnp.result_type(*leaves))

    return jax.tree.map(add, tree_x, tree_y, *other_trees)


@explain_errors("tree.scale")
def tree_scale(scalar: ArrayLike, tree: Tree) -> Tree:
    """Return `scalar * tree`, keeping the dtype of each leaf; a complex scalar makes real leaves complex.

    Args:
      scalar: a number.
      tree: a tree of arrays or numbers.

    >>> print(tree_scale(jnp.float32(2), jnp.ones(2, jnp.bfloat16)).dtype)
    bfloat16
    """
    return jax.tree.map(lambda x: _round_to(scalar * _upcast(x), jnp.result_type(x)), tree)


@explain_errors("tree.add_scale")
def tree_add_scale(tree_x: Tree, scalar: ArrayLike, tree_y: Tree) -> Tree:
    """Return `tree_x + scalar * tree_y`, each leaf in the common dtype of the two leaves.

    Args:
      tree_x: a tree of arrays or numbers; a leaf of `None` stays `None`.
      scalar: a number; its dtype does not matter.
      tree_y: a tree of the same structure.

    >>> print(tree_add_scale(jnp.ones(2), 0.5, jnp.ones(2)))
    [1.5 1.5]
    """

    def add(x: Any, y: Any) -> Any:
        return None if x is None else _round_to(_upcast(x) + scalar * _upcast(y), jnp.result_type(x, y))

    return jax.tree.map(add, tree_x, tree_y, is_leaf=lambda x: x is None)


@explain_errors("tree.clip")
def tree_clip(tree: Tree, min_value: ArrayLike | None = None, max_value: ArrayLike | None = None) -> Tree:
    """Return the tree with each element clipped to an interval.

    Args:
      tree: a tree of real arrays or numbers.
      min_value: the lower bound; `None` means no bound.
      max_value: the upper bound; `None` means no bound.

    Raises:
      ValueError: a leaf is complex; the message names the leaf.

    >>> print(tree_clip(jnp.array([2.0, -3.0]), -1.0, 1.0))
    [ 1. -1.]
    """

    def clip(keys: KeyPath, x: ArrayLike) -> jax.Array:
        if jnp.iscomplexobj(x):
            raise ValueError(f"tree.clip: {path(keys) or 'the leaf'} must be real, got {jnp.result_type(x)}.")
        return _round_to(jnp.clip(x, min_value, max_value), jnp.result_type(x))

    return jax.tree_util.tree_map_with_path(clip, tree)


def _upcast(x: Any) -> Any:
    """Return a floating array in float32 or wider, and anything else unchanged."""
    is_floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    return as_dtype(x, wide(jnp.dtype(jnp.result_type(x)))) if is_floating else x


def _round_to(x: Any, dtype: DTypeLike) -> Any:
    """Cast an array to the dtype of its operands, unless that is an integer dtype or would drop an imaginary part."""
    kind = jnp.complexfloating if jnp.iscomplexobj(x) else jnp.inexact
    return as_dtype(x, dtype) if hasattr(x, "dtype") and jnp.issubdtype(dtype, kind) else x
