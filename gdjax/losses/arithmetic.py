"""Checks and arithmetic shared by the losses."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Axis = int | tuple[int, ...] | None


def require_floating(who: str, **arrays: ArrayLike) -> None:
    """Reject arrays that are not floating: integers, booleans and complex numbers.

    Raises:
      TypeError: an argument has another dtype; the message names the loss and the argument.
    """
    for name, x in arrays.items():
        if not jnp.issubdtype(dtype := jnp.result_type(x), jnp.floating):
            raise TypeError(f"{who}: {name} must have a floating dtype that is a subdtype of floating, got {dtype}.")


def require_real(who: str, **arrays: ArrayLike) -> None:
    """Reject complex arrays, whose elements have no order.

    Raises:
      TypeError: an argument has another dtype; the message names the loss and the argument.
    """
    for name, x in arrays.items():
        if jnp.issubdtype(dtype := jnp.result_type(x), jnp.complexfloating):
            raise TypeError(f"{who}: {name} must be real, got {dtype}.")


def require_same_shape(who: str, **arrays: ArrayLike) -> None:
    """Reject arrays of different shapes, since broadcasting would hide the mistake.

    Raises:
      ValueError: the shapes differ; the message names the loss, the arguments and their shapes.
    """
    if len({jnp.shape(x) for x in arrays.values()}) > 1:
        shapes = " and ".join(f"{name} of shape {jnp.shape(x)}" for name, x in arrays.items())
        raise ValueError(f"{who}: the shapes must be the same, got {shapes}.")


def zero_safe_product(weights: ArrayLike, x: jax.Array) -> jax.Array:
    """Return `weights * x` with `0 * inf = 0`: a class of probability 0 adds nothing, even if its logarithm is -inf."""
    return jnp.multiply(weights, jnp.where(jnp.equal(weights, 0) & jnp.isinf(x), 0, x))


def masked_sum(terms: jax.Array, axis: Axis, where: ArrayLike | None) -> jax.Array:
    """Return the sum of the terms that `where` selects; all others get derivative 0, even if they are infinite."""
    return jnp.sum(terms if where is None else jnp.where(where, terms, 0), axis)


def log_softmax(logits: ArrayLike, axis: Axis, where: ArrayLike | None = None) -> jax.Array:
    """Return `log(softmax(logits))` over the elements that `where` selects.

    The result is -inf at the other elements, and 0 in a row where `where` selects none.
    """
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
        logits = jnp.where(jnp.any(where, axis, keepdims=True), logits, 0)
    return jax.nn.log_softmax(logits, axis)


def expand_mask(where: ArrayLike | None, x: ArrayLike, axis: Axis) -> ArrayLike | None:
    """Insert the axes that a loss sums over into a mask with one element per example."""
    return where if where is None or jnp.ndim(where) == jnp.ndim(x) else jnp.expand_dims(where, axis)  # pyright: ignore
