"""Arithmetic that the losses share."""

from typing import Any

import jax
import jax.numpy as jnp

Axis = int | tuple[int, ...] | None


def require_floating(who: str, **arrays: Any) -> None:
    """Refuse arrays of integers, booleans or complex numbers where a loss takes logarithms and differences.

    Raises:
      TypeError: names the loss, the argument and its dtype.
    """
    for name, x in arrays.items():
        if not jnp.issubdtype(dtype := jnp.result_type(x), jnp.floating):
            raise TypeError(f"{who}: {name} must have a floating dtype that is a subdtype of floating, got {dtype}.")


def require_real(who: str, **arrays: Any) -> None:
    """Refuse complex numbers, which have no order.

    Raises:
      TypeError: names the loss, the argument and its dtype.
    """
    for name, x in arrays.items():
        if jnp.issubdtype(dtype := jnp.result_type(x), jnp.complexfloating):
            raise TypeError(f"{who}: {name} must be real, got {dtype}.")


def require_same_shape(who: str, **arrays: Any) -> None:
    """Refuse arrays of different shapes where broadcasting would hide a mistake.

    Raises:
      ValueError: names the loss, the arguments and their shapes.
    """
    if len({jnp.shape(x) for x in arrays.values()}) > 1:
        shapes = " and ".join(f"{name} of shape {jnp.shape(x)}" for name, x in arrays.items())
        raise ValueError(f"{who}: the shapes must be the same, got {shapes}.")


def product(weights: Any, x: jax.Array) -> jax.Array:
    """Return `weights * x`, with `0 * inf = 0`: a class of probability 0 adds nothing, whatever its logarithm is."""
    return weights * jnp.where((weights == 0) & jnp.isinf(x), 0, x)


def masked_sum(terms: jax.Array, axis: Axis, where: Any) -> jax.Array:
    """Return the sum of the terms that `where` selects; the others have the derivative 0, even if infinite."""
    return jnp.sum(terms if where is None else jnp.where(where, terms, 0), axis)


def log_softmax(logits: Any, axis: Axis, where: Any = None) -> jax.Array:
    """Return `log(softmax(logits))` over the elements that `where` selects: -inf elsewhere, 0 where it selects none."""
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
        logits = jnp.where(jnp.any(where, axis, keepdims=True), logits, 0)
    return jax.nn.log_softmax(logits, axis)


def mask_for(where: Any, x: Any, axis: Any) -> Any:
    """Give `where` the axes of `x`: a mask of whole examples lacks the axes that a loss sums over."""
    return where if where is None or jnp.ndim(where) == jnp.ndim(x) else jnp.expand_dims(where, axis)
