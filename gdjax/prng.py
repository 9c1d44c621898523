"""Typed PRNG keys, and the arrays of integers behind them."""

from typing import Any

import jax
import jax.numpy as jnp


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> Any:
    """A leaf, the data of a typed PRNG key instead of it."""
    if not is_key(leaf):
        return leaf
    return jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)


def typed(array: Any, leaf: Any) -> Any:
    """An array, as a typed PRNG key where the leaf that it stands for is one."""
    if not is_key(leaf):
        return array
    return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(filled(leaf)))


def filled(leaf: Any) -> Any:
    """Return zeros for a `jax.ShapeDtypeStruct`, and an array as it is."""
    return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
