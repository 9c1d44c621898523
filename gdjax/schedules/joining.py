"""Schedules of schedules."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from gdjax.schedules.piecewise import constant
from gdjax.schedules.progress import Number, Steps, after, require_order, since, whole_steps
from gdjax.value import Rate, schedule
from gdjax.value.factory import opaque_schedule
from gdjax.value.printing import brief


@schedule
def join_schedules(schedules: Sequence[optax.Schedule], boundaries: Sequence[Steps]):
    r"""Follow one schedule after the other, each from 0 on.

    $\eta_t = f_i(t - b_i)$ for $b_i \leq t < b_{i+1}$, with $b_0 = 0$.

    Differs from Optax: the boundaries are leaves, so that every schedule after the first is given a real number of
    steps (a plain function still a whole one, of a whole count); before its boundary it is given 0.

    Args:
      schedules: $f_i$, functions of the count; at least one.
      boundaries: $b_1, b_2, \dots$, ascending, in [0, inf), one fewer.

    Raises:
      ValueError: if the boundaries are not one fewer than the schedules, or descend.

    >>> import gdjax as gd
    >>> rate = gd.join_schedules([gd.constant(1.0), gd.linear_schedule(0.5, 0.0, 100)], [10])
    >>> print(rate(9), rate(10), rate(60))
    1.0 0.5 0.25
    """
    for name, given in (("schedules", schedules), ("boundaries", boundaries)):
        if not isinstance(given, (list, tuple)) and getattr(given, "ndim", 0) != 1:
            raise TypeError(f"join_schedules: {name} must be a list, got {brief(given)}; write [{brief(given)}].")
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            "join_schedules: the boundaries must be one fewer than the schedules, "
            f"got {len(boundaries)} and {len(schedules)}."
        )
    for earlier, later in itertools.pairwise(boundaries):
        require_order("join_schedules", "a boundary", earlier, "the next", later)

    def at(count):
        value = jnp.asarray(schedules[0](count))
        whole = jnp.issubdtype(jnp.result_type(count), jnp.integer)
        for boundary, part in zip(boundaries, schedules[1:], strict=True):
            theirs = whole and getattr(part, "factory", None) == opaque_schedule
            steps = whole_steps(count, boundary) if theirs else since(count, boundary)
            value = jnp.where(after(count, boundary) < 0, value, part(steps))
        return value

    return at


@schedule
def scaled(schedule: Rate, factor: Number):
    r"""Multiply a schedule by a number: $a \eta_t$.

    Args:
      schedule: $\eta$, a number or a function of the count.
      factor: $a$, any number.

    >>> import gdjax as gd
    >>> rate = gd.scaled(gd.warmup_cosine(1.0, 10, 110), 0.1)
    >>> print(rate(5), rate(10))
    0.05 0.1
    """
    rate = schedule if callable(schedule) else constant(schedule)
    return lambda count: factor * rate(count)
