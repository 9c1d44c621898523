"""Schedules made of other schedules."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from gdjax.schedules.piecewise import constant
from gdjax.schedules.progress import Number, Steps, elapsed_integer_steps, elapsed_or_zero, elapsed_steps, require_order
from gdjax.value import Rate, schedule
from gdjax.value.factory import opaque_schedule
from gdjax.value.printing import brief


@schedule
def join_schedules(schedules: Sequence[optax.Schedule], boundaries: Sequence[Steps]):
    r"""Follow one schedule after another, each counting steps from its boundary.

    $\eta_t = f_i(t - b_i)$ for $b_i \leq t < b_{i+1}$, with $b_0 = 0$.

    Differs from Optax: boundaries are leaves, so each schedule after the first receives a float number of steps, and
    0 before its boundary. A plain function still receives an integer if the count is one.

    Args:
      schedules: $f_i$, functions of the step count; at least one.
      boundaries: $b_1, b_2, \dots$, ascending, in [0, inf); one fewer than `schedules`.

    Raises:
      TypeError: `schedules` or `boundaries` is not a list.
      ValueError: the boundaries are not one fewer than the schedules, or do not ascend.

    >>> import gdjax as gd
    >>> rate = gd.join_schedules([gd.constant(1.0), gd.linear_schedule(0.5, 0.0, 100)], [10])
    >>> print(rate(9), rate(10), rate(60))
    1.0 0.5 0.25
    """
    for name, argument in (("schedules", schedules), ("boundaries", boundaries)):
        if not isinstance(argument, (list, tuple)) and getattr(argument, "ndim", 0) != 1:
            shown = brief(argument)
            raise TypeError(f"join_schedules: {name} must be a list, got {shown}. Pass [{shown}].")
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            "join_schedules: boundaries must be one fewer than schedules, "
            f"got {len(boundaries)} boundaries and {len(schedules)} schedules."
        )
    for earlier, later in itertools.pairwise(boundaries):
        require_order("join_schedules", "each boundary", earlier, "the next", later)

    def at(count):
        value = jnp.asarray(schedules[0](count))
        is_integer = jnp.issubdtype(jnp.result_type(count), jnp.integer)
        for boundary, following in zip(boundaries, schedules[1:], strict=True):
            takes_integer = is_integer and getattr(following, "factory", None) == opaque_schedule
            steps = elapsed_integer_steps(count, boundary) if takes_integer else elapsed_or_zero(count, boundary)
            value = jnp.where(elapsed_steps(count, boundary) < 0, value, following(steps))
        return value

    return at


@schedule
def scaled(schedule: Rate, factor: Number):
    r"""Multiply a schedule by a number: $a \eta_t$.

    Args:
      schedule: $\eta$, a number or a function of the step count.
      factor: $a$, in (-inf, inf).

    >>> import gdjax as gd
    >>> rate = gd.scaled(gd.warmup_cosine(1.0, 10, 110), 0.1)
    >>> print(rate(5), rate(10))
    0.05 0.1
    """
    rate = schedule if callable(schedule) else constant(schedule)
    return lambda count: factor * rate(count)
