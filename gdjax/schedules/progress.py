"""Shared parts of schedules: ranges of their numbers, steps counted from a start, interpolation between values."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.value import Interval, Scalar

Number = Annotated[Scalar, Interval("(-inf, inf)")]
Steps = Annotated[Scalar, Interval("[0, inf)")]
Share = Annotated[Scalar, Interval("[0, 1]")]
Factor = Annotated[Scalar, Interval("(0, inf)")]


LAST = 2**31 - 128
"""The largest float32 below 2**31."""


def after(count: Any, start: Any = 0.0) -> jax.Array:
    """Return the steps from a start to a count as a float; it is negative before the start.

    Whole counts are subtracted as integers: float32 alone would confuse counts from 2**24 on.
    """
    if isinstance(count, (int, np.integer)):
        count = int(count)
        return jnp.asarray(float(count - start) if isinstance(start, float) else count - start)
    count = jnp.asarray(count)
    if not jnp.issubdtype(count.dtype, jnp.integer) or count.dtype in (jnp.uint32, jnp.uint64):
        return count.astype(float) - start
    whole = _whole(start, math.floor, jnp.floor)
    return (_signed(count) - _as_int(whole)).astype(float) - (start - whole)


def whole_steps(count: Any, start: Any) -> jax.Array:
    """Return the whole steps from a start to a whole count, 0 before it, as an integer."""
    if isinstance(count, (int, np.integer)):
        count = min(int(count), 2**31 - 1)
    return jnp.maximum(_signed(jnp.asarray(count)) - _as_int(_whole(start, math.ceil, jnp.ceil)), 0)


def _whole(start: Any, of_number: Callable[[float], int], of_array: Callable[[Any], jax.Array]) -> Any:
    """Round a start to a whole number that an int32 holds."""
    if isinstance(start, float):
        return float(min(max(of_number(start), 0), LAST))
    return jnp.clip(of_array(start), 0.0, float(LAST))


def _as_int(whole: Any) -> Any:
    return int(whole) if isinstance(whole, float) else whole.astype(jnp.int32)


def _signed(count: jax.Array) -> jax.Array:
    return count.astype(jnp.promote_types(count.dtype, jnp.int32))


def progress(passed: jax.Array, steps: Any, empty: float = 1.0) -> jax.Array:
    """Return the share of a part that is done, in [0, 1].

    A part of no steps is over once it is reached; with `empty=0.0` it never begins.
    """
    done = jnp.where(steps > 0, passed / jnp.where(steps > 0, steps, 1.0), jnp.where(passed >= 0, empty, 0.0))
    return jnp.clip(done, 0.0, 1.0)


def since(count: Any, start: Any) -> jax.Array:
    """Return the steps since a start, 0 before it."""
    passed = after(count, start)
    return jnp.where(passed < 0, 0.0, passed)


def nonnegative(number: Any) -> Any:
    """Return a number, or 0 if it is negative."""
    return max(number, 0.0) if isinstance(number, float) else jnp.where(number < 0, 0.0, number)


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
    count: Any, levels: Sequence[Any], boundaries: Iterable[Any], left: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Go through levels and reach the next one at each boundary; before step 0 stay at 0."""
    start, passed = 0.0, after(count)
    value = jnp.where(passed < 0, 0.0, held(levels[0], count))
    for (first, last), end in zip(itertools.pairwise(levels), boundaries, strict=True):
        value = jnp.where(passed < 0, value, between(first, last, left(progress(passed, end - start))))
        start, passed = end, after(count, end)
    return value


def require_order(who: str, name: str, number: Any, other: str, most: Any) -> None:
    """Refuse a number larger than another; what is no plain number is taken at its word."""
    if isinstance(number, float) and isinstance(most, float) and number > most >= 0:
        raise ValueError(f"{who}: {name} must be at most {other}, {most}, got {number}.")


def require_less(who: str, name: str, number: Any, other: str, limit: Any) -> None:
    """Refuse a number that is not smaller than another, where both are plain numbers."""
    if isinstance(number, float) and isinstance(limit, float) and number >= limit:
        raise ValueError(f"{who}: {name} must be less than {other}, {limit}, got {number}.")
