"""Typed PRNG keys, and the arrays of integers behind them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct
"""An array, or the shape and dtype of one."""


def is_key(leaf: Leaf) -> bool:
    """Return whether a leaf is a typed PRNG key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def raw(leaf: Leaf) -> Any:
    """Return the data of a typed PRNG key, and any other leaf as it is."""
    if not is_key(leaf):
        return leaf
    return jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)


def typed_like(array: jax.Array | np.ndarray, like: Leaf) -> Any:
    """Return an array as a typed PRNG key if `like` is one."""
    if not is_key(like):
        return array
    return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(zeros_if_abstract(like)))


def zeros_if_abstract(leaf: Leaf) -> jax.Array | np.ndarray:
    """Return zeros for a `jax.ShapeDtypeStruct`, and an array as it is."""
    return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
