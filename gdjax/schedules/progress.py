"""Helpers of schedules: ranges of their numbers, elapsed steps, interpolation."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gdjax.value import Interval, Scalar

Number = Annotated[Scalar, Interval("(-inf, inf)")]
Steps = Annotated[Scalar, Interval("[0, inf)")]
Fraction = Annotated[Scalar, Interval("[0, 1]")]
FinitePositive = Annotated[Scalar, Interval("(0, inf)")]


LARGEST_FLOAT32_STEP = 2**31 - 128
"""The largest float32 below 2**31."""


def elapsed_steps(count: ArrayLike, start: Scalar = 0.0) -> jax.Array:
    """Return the number of steps from a start to a count, as a float; it is negative before the start.

    Integer counts are subtracted as integers: float32 cannot tell all counts from 2**24 on apart.
    """
    if isinstance(count, (int, np.integer)):
        count = int(count)
        return jnp.asarray(float(count - start) if isinstance(start, float) else count - start)
    count = jnp.asarray(count)
    if not jnp.issubdtype(count.dtype, jnp.integer) or count.dtype in (jnp.uint32, jnp.uint64):
        return count.astype(float) - start
    integer = _round_start(start, math.floor, jnp.floor)
    return (_as_signed(count) - _as_int32(integer)).astype(float) - (start - integer)


def elapsed_integer_steps(count: ArrayLike, start: Scalar) -> jax.Array:
    """Return the number of steps from a start to an integer count, rounded down, as an integer; 0 before the start."""
    if isinstance(count, (int, np.integer)):
        count = min(int(count), 2**31 - 1)
    return jnp.maximum(_as_signed(jnp.asarray(count)) - _as_int32(_round_start(start, math.ceil, jnp.ceil)), 0)


def _round_start(
    start: Scalar, round_number: Callable[[float], int], round_array: Callable[[Any], jax.Array]
) -> Scalar:
    """Round a start to an integer in the range of int32."""
    if isinstance(start, float):
        return float(min(max(round_number(start), 0), LARGEST_FLOAT32_STEP))
    return jnp.clip(round_array(start), 0.0, float(LARGEST_FLOAT32_STEP))


def _as_int32(integer: Scalar) -> jax.Array | int:
    return int(integer) if isinstance(integer, (int, float)) else integer.astype(jnp.int32)


def _as_signed(count: jax.Array) -> jax.Array:
    return count.astype(jnp.promote_types(count.dtype, jnp.int32))


def progress(elapsed: jax.Array, steps: Scalar, empty: float = 1.0) -> jax.Array:
    """Return the fraction of a phase that is done, in [0, 1].

    A phase of 0 steps is done once it starts; with `empty=0.0` it never is.
    """
    done = jnp.where(steps > 0, elapsed / jnp.where(steps > 0, steps, 1.0), jnp.where(elapsed >= 0, empty, 0.0))
    return jnp.clip(done, 0.0, 1.0)


def elapsed_or_zero(count: ArrayLike, start: Scalar) -> jax.Array:
    """Return the number of steps since a start, as a float; it is 0 before the start."""
    elapsed = elapsed_steps(count, start)
    return jnp.where(elapsed < 0, 0.0, elapsed)


def clip_negative(number: Scalar) -> Scalar:
    """Return a number, or 0 if it is negative."""
    return max(number, 0.0) if isinstance(number, float) else jnp.where(number < 0, 0.0, number)


def broadcast_value(value: Scalar, count: ArrayLike) -> jax.Array:
    """Broadcast a value with the shape of the count."""
    return jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), jnp.shape(count)))


def interpolate(first: Scalar, last: Scalar, remaining: jax.Array) -> jax.Array:
    """Interpolate between two values: exactly the first if the remaining fraction is 1, the last if it is 0."""
    return remaining * first + (1.0 - remaining) * last


def half_cosine(done: jax.Array) -> jax.Array:
    """Return the fraction that remains along half a cosine: 1 at the start, 0 at the end."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * done))


def safe_power(remaining: jax.Array, exponent: Scalar) -> jax.Array:
    """Return a power of the remaining fraction, with derivative 0 at 0, where that of a root is infinite."""
    positive = jnp.where(remaining > 0, remaining, 1.0)
    return jnp.where(remaining > 0, jnp.power(positive, exponent), jnp.power(0.0, exponent))


def interpolate_levels(
    count: ArrayLike,
    levels: Sequence[Scalar],
    boundaries: Iterable[Scalar],
    remaining: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Move from level to level, reaching the next one at each boundary; the value is 0 before step 0."""
    start, elapsed = 0.0, elapsed_steps(count)
    value = jnp.where(elapsed < 0, 0.0, broadcast_value(levels[0], count))
    for (first, last), end in zip(itertools.pairwise(levels), boundaries, strict=True):
        value = jnp.where(elapsed < 0, value, interpolate(first, last, remaining(progress(elapsed, end - start))))
        start, elapsed = end, elapsed_steps(count, end)
    return value


def require_order(who: str, name: str, number: Scalar, other: str, most: Scalar) -> None:
    """Reject a number larger than another, non-negative one, if both are Python floats."""
    if isinstance(number, float) and isinstance(most, float) and number > most >= 0:
        raise ValueError(f"{who}: {name} must be at most {other} ({most}), got {number}.")


def require_less(who: str, name: str, number: Scalar, other: str, limit: Scalar) -> None:
    """Reject a number that is not smaller than another, if both are Python floats."""
    if isinstance(number, float) and isinstance(limit, float) and number >= limit:
        raise ValueError(f"{who}: {name} must be less than {other} ({limit}), got {number}.")
