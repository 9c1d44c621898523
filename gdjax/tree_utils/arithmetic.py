"""Arithmetic of trees, leaf by leaf."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.explaining import explain_errors
from gdjax.tree import Tree, as_dtype, path, wide


@explain_errors("tree.add")
def tree_add(tree_x: Tree, tree_y: Tree, *other_trees: Tree) -> Tree:
    """Return the sum of two trees or more, each leaf rounded once to the dtype of the leaves that it sums.

    Args:
      tree_x: a tree of numbers.
      tree_y: a tree of the same structure.
      *other_trees: more of these.

    >>> print(tree_add(jnp.float16(60000), jnp.float16(60000), jnp.float16(-60000)))
    6e+04
    """

    def add(*leaves: Any) -> Any:
        return _rounded(sum(map(_wide, leaves)), jnp.result_type(*leaves))

    return jax.tree.map(add, tree_x, tree_y, *other_trees)


@explain_errors("tree.scale")
def tree_scale(scalar: ArrayLike, tree: Tree) -> Tree:
    """Return `scalar * tree`, each leaf in its dtype; a real leaf times a complex number is complex.

    Args:
      scalar: a number.
      tree: a tree of numbers.

    >>> print(tree_scale(jnp.float32(2), jnp.ones(2, jnp.bfloat16)).dtype)
    bfloat16
    """
    return jax.tree.map(lambda x: _rounded(scalar * _wide(x), jnp.result_type(x)), tree)


@explain_errors("tree.add_scale")
def tree_add_scale(tree_x: Tree, scalar: ArrayLike, tree_y: Tree) -> Tree:
    """Return `tree_x + scalar * tree_y`, each leaf in the dtype of the two leaves, whatever that of the scalar.

    Args:
      tree_x: a tree of numbers; a leaf of `None` stays `None`.
      scalar: a number.
      tree_y: a tree of the same structure.

    >>> print(tree_add_scale(jnp.ones(2), 0.5, jnp.ones(2)))
    [1.5 1.5]
    """

    def add(x: Any, y: Any) -> Any:
        return None if x is None else _rounded(_wide(x) + scalar * _wide(y), jnp.result_type(x, y))

    return jax.tree.map(add, tree_x, tree_y, is_leaf=lambda x: x is None)


@explain_errors("tree.clip")
def tree_clip(tree: Tree, min_value: ArrayLike | None = None, max_value: ArrayLike | None = None) -> Tree:
    """Return the tree with each number moved into an interval.

    Args:
      tree: a tree of real numbers.
      min_value: the least value; `None` for no bound.
      max_value: the greatest value; `None` for no bound.

    Raises:
      ValueError: a leaf is complex; the message names it.

    >>> print(tree_clip(jnp.array([2.0, -3.0]), -1.0, 1.0))
    [ 1. -1.]
    """

    def clip(keys: Any, x: Any) -> Any:
        if jnp.iscomplexobj(x):
            raise ValueError(f"tree.clip: {path(keys) or 'the leaf'} must be real, got {jnp.result_type(x)}.")
        return _rounded(jnp.clip(x, min_value, max_value), jnp.result_type(x))

    return jax.tree_util.tree_map_with_path(clip, tree)


def _wide(x: Any) -> Any:
    """Return a narrow array in float32, anything else as it is."""
    narrow = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    return as_dtype(x, wide(jnp.dtype(jnp.result_type(x)))) if narrow else x


def _rounded(x: Any, dtype: Any) -> Any:
    """Return a real or complex result in the dtype of its operands, if that is real or complex too."""
    kept = jnp.complexfloating if jnp.iscomplexobj(x) else jnp.inexact
    return as_dtype(x, dtype) if hasattr(x, "dtype") and jnp.issubdtype(dtype, kept) else x
