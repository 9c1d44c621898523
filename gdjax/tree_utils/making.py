"""New trees from old: casts, and random trees of the same structure."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jax.typing import DTypeLike

from gdjax.explaining import explain_errors
from gdjax.tree import Tree, path


@explain_errors("tree.cast")
def tree_cast(tree: Tree, dtype: DTypeLike | None) -> Tree:
    """Return the tree with each leaf cast to a dtype, or the tree itself if the dtype is `None`.

    Args:
      tree: a tree of arrays, numbers or `jax.ShapeDtypeStruct`.
      dtype: the dtype of the result.

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
    sampler: Callable[..., jax.Array] = jax.random.normal,
    dtype: DTypeLike | None = None,
) -> Tree:
    """Return a random tree with the structure, shapes and dtypes of another tree.

    Args:
      rng_key: the PRNG key.
      target_tree: the tree to match, of arrays, numbers or `jax.ShapeDtypeStruct`.
      sampler: called as `sampler(key, shape, dtype)`, and with `out_sharding=` if it accepts that.
      dtype: one dtype for all leaves; `None` keeps the dtype of each.

    Raises:
      ValueError: the sampler rejects a leaf, as `jax.random.normal` rejects integers; the message names the leaf.

    >>> print(tree_random_like(jax.random.key(0), {"w": jnp.ones((2, 3)), "b": 0.0})["w"].shape)
    (2, 3)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(target_tree)
    keys = jax.random.split(rng_key, len(leaves))
    takes_sharding = "out_sharding" in inspect.signature(sampler).parameters

    def sample(keys: KeyPath, leaf: Any, key: jax.Array) -> jax.Array:
        sharding = {"out_sharding": jax.typeof(leaf).sharding} if takes_sharding else {}
        try:
            return sampler(key, jnp.shape(leaf), dtype or jnp.result_type(leaf), **sharding)
        except (TypeError, ValueError) as error:
            raise ValueError(f"tree.random_like: {path(keys) or 'the leaf'}: {error}") from error

    return structure.unflatten([sample(*leaf, key) for leaf, key in zip(leaves, keys, strict=True)])
