"""Schedules that stay, and that pass from level to level at given steps."""

import itertools
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np

from gdjax.schedules.progress import Number, after, half_cosine, held, through
from gdjax.value import NonNegative, schedule
from gdjax.value.printing import brief


@schedule
def constant(value: Number):
    r"""Stay: $\eta_t = \eta$.

    Args:
      value: $\eta$, any number.

    >>> import gdjax as gd
    >>> print(gd.constant(0.1)(1_000))
    0.1
    """
    return lambda count: held(value, count)


@schedule
def constant_schedule(value: Number):
    """Stay: `constant` under Optax's name.

    Args:
      value: any number.

    >>> import gdjax as gd
    >>> print(gd.constant_schedule(0.1)(1_000))
    0.1
    """
    return constant(value)


@schedule
def piecewise_constant_schedule(init_value: Number, boundaries_and_scales: Mapping[int, NonNegative] | None = None):
    r"""Multiply by a scale at each boundary: $\eta_t = \eta_0 \prod_{i: t \geq b_i} s_i$.

    Args:
      init_value: $\eta_0$, any number.
      boundaries_and_scales: $s_i$, in [0, inf), by $b_i$. The boundaries are whole numbers in [0, inf) and shape the
        program; `join_schedules` takes boundaries that are leaves.

    Raises:
      ValueError: if a boundary is no whole number in [0, inf).

    >>> import gdjax as gd
    >>> rate = gd.piecewise_constant_schedule(1.0, {100: 0.5, 200: 0.1})
    >>> print(rate(99), rate(100), rate(200))
    1.0 0.5 0.05
    """
    steps = _sorted("piecewise_constant_schedule", boundaries_and_scales)

    def at(count):
        value = held(init_value, count)
        for boundary, scale in steps.items():
            value = jnp.where(after(count, boundary) < 0, value, scale * value)
        return value

    return at


@schedule
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: Number,
    boundaries_and_scales: Mapping[int, NonNegative] | None = None,
):
    r"""Pass from level to level, each reached at its boundary and a scale times the one before.

    With the levels $l_0 = \eta_0$, $l_i = s_i l_{i-1}$, and $b_0 = 0$: for $b_{i-1} \leq t < b_i$
    $\eta_t = l_i + (l_{i-1} - l_i)\, c(x)$ with $x = (t - b_{i-1}) / (b_i - b_{i-1})$, where $c(x)$ is $1 - x$ or
    $(1 + \cos \pi x) / 2$; after the last boundary its level, and 0 for $t < 0$, as in Optax.

    Args:
      interpolate_type: which $c$, `"linear"` or `"cosine"`.
      init_value: $\eta_0$, any number.
      boundaries_and_scales: $s_i$ by $b_i$, as in `piecewise_constant_schedule`.

    Raises:
      ValueError: if the type is neither, or a boundary is no whole number in [0, inf).

    >>> import gdjax as gd
    >>> rate = gd.piecewise_interpolate_schedule("linear", 1.0, {100: 0.5, 200: 0.1})
    >>> print(rate(50), rate(100), rate(200))
    0.75 0.5 0.05
    """
    steps = _sorted("piecewise_interpolate_schedule", boundaries_and_scales)
    if interpolate_type not in LEFT:
        kinds = " or ".join(map(repr, LEFT))
        raise ValueError(f"piecewise_interpolate_schedule: interpolate_type must be {kinds}, got {interpolate_type!r}.")

    def at(count):
        levels = list(itertools.accumulate(steps.values(), lambda level, scale: scale * level, initial=init_value))
        return through(count, levels, steps, LEFT[interpolate_type])

    return at


LEFT = {"linear": lambda done: 1.0 - done, "cosine": half_cosine}
"""What is left of the way from level to level, as a function of what is done of the part."""


def _sorted(who: str, steps: Mapping[int, NonNegative] | None) -> dict[float, NonNegative]:
    """The scales in the order of their boundaries."""
    if not (steps is None or isinstance(steps, Mapping)):
        raise TypeError(f"{who}: boundaries_and_scales must be a dict of scales by boundary, got {brief(steps)}.")
    for boundary in steps or ():
        if not isinstance(boundary, (int, np.integer)) or boundary < 0:
            raise ValueError(f"{who}: a boundary must be a whole number (an int) in [0, inf), got {boundary!r}.")
    return {float(boundary): scale for boundary, scale in sorted((steps or {}).items())}
