"""Trees of another dtype, and of random numbers."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gdjax.explaining import explain_errors
from gdjax.tree import Tree, path


@explain_errors("tree.cast")
def tree_cast(tree: Tree, dtype: DTypeLike | None) -> Tree:
    """Return the tree with each leaf in a dtype, or the tree itself if that is `None`.

    Args:
      tree: a tree of numbers, or of `jax.ShapeDtypeStruct`.
      dtype: the dtype.

    >>> print(tree_cast({"w": jnp.ones(2), "b": 0.5}, jnp.bfloat16)["b"].dtype)
    bfloat16
    """

    def cast(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype), sharding=x.sharding)
        return x.astype(dtype) if hasattr(x, "astype") else jnp.asarray(x, dtype)

    return tree if dtype is None else jax.tree.map(cast, tree)


@explain_errors("tree.random_like")
def tree_random_like(
    rng_key: jax.Array,
    target_tree: Tree,
    sampler: Callable[..., Any] = jax.random.normal,
    dtype: DTypeLike | None = None,
) -> Tree:
    """Return a tree of random numbers, with the structure, the shapes and the dtypes of another.

    Args:
      rng_key: the key.
      target_tree: the tree that is matched, of numbers or of `jax.ShapeDtypeStruct`.
      sampler: called as `sampler(key, shape, dtype)`, with `out_sharding=` where it takes it.
      dtype: the dtype of all leaves, where it is not that of each.

    Raises:
      ValueError: the sampler refuses a leaf, such as a normal one of integers; the message names the leaf.

    >>> print(tree_random_like(jax.random.key(0), {"w": jnp.ones((2, 3)), "b": 0.0})["w"].shape)
    (2, 3)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(target_tree)
    keys = jax.random.split(rng_key, len(leaves))
    sharded = "out_sharding" in inspect.signature(sampler).parameters

    def draw(keys: Any, leaf: Any, key: jax.Array) -> Any:
        placed = {"out_sharding": jax.typeof(leaf).sharding} if sharded else {}
        try:
            return sampler(key, jnp.shape(leaf), dtype or jnp.result_type(leaf), **placed)
        except (TypeError, ValueError) as error:
            raise ValueError(f"tree.random_like: {path(keys) or 'the leaf'}: {error}") from error

    return structure.unflatten([draw(*leaf, key) for leaf, key in zip(leaves, keys, strict=True)])
