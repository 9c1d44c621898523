"""Constant and piecewise schedules."""

import itertools
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np

from gdjax.schedules.progress import Number, broadcast_value, elapsed_steps, half_cosine, interpolate_levels
from gdjax.value import NonNegative, schedule
from gdjax.value.printing import brief


@schedule
def constant(value: Number):
    r"""Return a constant: $\eta_t = \eta$.

    Args:
      value: $\eta$, in (-inf, inf).

    >>> import gdjax as gd
    >>> print(gd.constant(0.1)(1_000))
    0.1
    """
    return lambda count: broadcast_value(value, count)


@schedule
def constant_schedule(value: Number):
    """Return a constant: `constant` under Optax's name.

    Args:
      value: the constant, in (-inf, inf).

    >>> import gdjax as gd
    >>> print(gd.constant_schedule(0.1)(1_000))
    0.1
    """
    return constant(value)


@schedule
def piecewise_constant_schedule(init_value: Number, boundaries_and_scales: Mapping[int, NonNegative] | None = None):
    r"""Multiply by a scale at each boundary: $\eta_t = \eta_0 \prod_{i: t \geq b_i} s_i$.

    Args:
      init_value: $\eta_0$, in (-inf, inf).
      boundaries_and_scales: a dict from boundaries $b_i$ to scales $s_i$ in [0, inf). Boundaries are integers in
        [0, inf), and static; `join_schedules` takes boundaries that are leaves.

    Raises:
      TypeError: `boundaries_and_scales` is not a dict.
      ValueError: a boundary is not an integer in [0, inf).

    >>> import gdjax as gd
    >>> rate = gd.piecewise_constant_schedule(1.0, {100: 0.5, 200: 0.1})
    >>> print(rate(99), rate(100), rate(200))
    1.0 0.5 0.05
    """
    steps = _sort_scales("piecewise_constant_schedule", boundaries_and_scales)

    def at(count):
        value = broadcast_value(init_value, count)
        for boundary, scale in steps.items():
            value = jnp.where(elapsed_steps(count, boundary) < 0, value, scale * value)
        return value

    return at


@schedule
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: Number,
    boundaries_and_scales: Mapping[int, NonNegative] | None = None,
):
    r"""Move from level to level: each is reached at its boundary, and is a scale times the previous level.

    The levels are $l_0 = \eta_0$ and $l_i = s_i l_{i-1}$; let $b_0 = 0$. For $b_{i-1} \leq t < b_i$,
    $\eta_t = l_i + (l_{i-1} - l_i)\, c(x)$ with $x = (t - b_{i-1}) / (b_i - b_{i-1})$, where $c(x)$ is $1 - x$ or
    $(1 + \cos \pi x) / 2$. After the last boundary the value stays at the last level. For $t < 0$ it is 0, as in Optax.

    Args:
      interpolate_type: the function $c$, `"linear"` or `"cosine"`.
      init_value: $\eta_0$, in (-inf, inf).
      boundaries_and_scales: a dict from $b_i$ to $s_i$, as in `piecewise_constant_schedule`.

    Raises:
      TypeError: `boundaries_and_scales` is not a dict.
      ValueError: `interpolate_type` is neither, or a boundary is not an integer in [0, inf).

    >>> import gdjax as gd
    >>> rate = gd.piecewise_interpolate_schedule("linear", 1.0, {100: 0.5, 200: 0.1})
    >>> print(rate(50), rate(100), rate(200))
    0.75 0.5 0.05
    """
    steps = _sort_scales("piecewise_interpolate_schedule", boundaries_and_scales)
    if interpolate_type not in REMAINING:
        kinds = " or ".join(map(repr, REMAINING))
        raise ValueError(f"piecewise_interpolate_schedule: interpolate_type must be {kinds}, got {interpolate_type!r}.")

    def at(count):
        levels = list(itertools.accumulate(steps.values(), lambda level, scale: scale * level, initial=init_value))
        return interpolate_levels(count, levels, steps, REMAINING[interpolate_type])

    return at


REMAINING = {"linear": lambda done: 1.0 - done, "cosine": half_cosine}
"""The fraction that remains between two levels, as a function of the fraction done, by type."""


def _sort_scales(who: str, steps: Mapping[int, NonNegative] | None) -> dict[float, NonNegative]:
    """Return the scales in the order of their boundaries."""
    if not (steps is None or isinstance(steps, Mapping)):
        raise TypeError(f"{who}: boundaries_and_scales must be a dict from boundaries to scales, got {brief(steps)}.")
    for boundary in steps or ():
        if not isinstance(boundary, (int, np.integer)) or boundary < 0:
            raise ValueError(f"{who}: boundaries must be integers in [0, inf), got {boundary!r}.")
    return {float(boundary): scale for boundary, scale in sorted((steps or {}).items())}
