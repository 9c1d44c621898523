"""What schedules share: the ranges of their numbers, how much of a part is done, the way from value to value."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gdjax.value import Interval, Scalar

Number = Annotated[Scalar, Interval("(-inf, inf)")]
Steps = Annotated[Scalar, Interval("[0, inf)")]
Share = Annotated[Scalar, Interval("[0, 1]")]
Factor = Annotated[Scalar, Interval("(0, inf)")]


def progress(count: jax.Array, steps: Any) -> jax.Array:
    """How much of a part is done, in [0, 1]; a part of no steps is done once its first step is reached."""
    done = jnp.where(steps > 0, count / jnp.where(steps > 0, steps, 1.0), jnp.where(count >= 0, 1.0, 0.0))
    return jnp.clip(done, 0.0, 1.0)


def since(count: jax.Array, start: Any) -> jax.Array:
    """The steps since a start, 0 before it."""
    return jnp.where(count < start, 0.0, count - start)


def held(value: Any, count: Any) -> jax.Array:
    """A value in the shape of the counts."""
    return jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), jnp.shape(count)))


def between(first: Any, last: Any, left: jax.Array) -> jax.Array:
    """Between two values, of which it is exactly the first where all is left and the last where nothing is."""
    return left * first + (1.0 - left) * last


def half_cosine(done: jax.Array) -> jax.Array:
    """What is left along half a cosine: 1 where nothing is done, 0 where all is."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * done))


def raised(left: jax.Array, exponent: Any) -> jax.Array:
    """A power of what is left; where nothing is, its derivative is 0, not the infinite one of a root."""
    some = jnp.where(left > 0, left, 1.0)
    return jnp.where(left > 0, jnp.power(some, exponent), jnp.power(0.0, exponent))


def through(
    count: jax.Array, levels: Sequence[Any], boundaries: Iterable[Any], left: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Go from the first of some levels to the last, at each boundary on the next of them."""
    value, start = held(levels[0], count), 0.0
    for (first, last), end in zip(itertools.pairwise(levels), boundaries, strict=True):
        value = jnp.where(count < start, value, between(first, last, left(progress(count - start, end - start))))
        start = end
    return value


def require_order(who: str, name: str, number: Any, other: str, most: Any) -> None:
    """Refuse a number larger than another; what is no plain number is taken at its word."""
    if isinstance(number, float) and isinstance(most, float) and number > most >= 0:
        raise ValueError(f"{who}: {name} must be at most {other}, {most}, got {number}.")
