"""Schedules that begin with a warm-up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.schedules.decaying import exponential_decay, linear_schedule
from gdjax.schedules.joining import join_schedules
from gdjax.schedules.progress import (
    Number,
    Steps,
    after,
    between,
    half_cosine,
    progress,
    raised,
    require_less,
    require_order,
)
from gdjax.value import NonNegative, schedule


@schedule
def warmup_cosine(peak: Number, warmup_steps: Steps, total_steps: Steps, floor: Number = 0.0):
    r"""Rise linearly from 0 to the peak, then fall along half a cosine to the floor.

    $\eta_t = \eta\, t / w$ for $t < w$; then $\eta_t = f + (\eta - f) (1 + \cos \pi x) / 2$ with
    $x = (t - w) / (T - w)$; from $t = T$ on $f$. With $w = 0$ the first step is at the peak.

    Source: Loshchilov and Hutter 2016, equation 5, one run of it (https://arxiv.org/abs/1608.03983).

    Args:
      peak: $\eta$, the largest value, any number.
      warmup_steps: $w$, the step that reaches it, in [0, total_steps].
      total_steps: $T$, the step from which on the floor holds, in [0, inf).
      floor: $f$, the last value, at most the peak.

    Raises:
      ValueError: if the warm-up is longer than the whole, or the floor above a peak of 0 or more.

    >>> import gdjax as gd
    >>> rate = gd.warmup_cosine(1.0, 10, 110)
    >>> print([round(float(rate(step)), 3) for step in (0, 5, 10, 60, 110)])
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    require_order("warmup_cosine", "warmup_steps", warmup_steps, "total_steps", total_steps)
    require_order("warmup_cosine", "floor", floor, "peak", peak)
    return _risen_then_cosine(0.0, peak, warmup_steps, total_steps, floor, 1.0)


@schedule
def warmup_stable_decay(
    peak: Number, warmup_steps: Steps, stable_steps: Steps, decay_steps: Steps, floor: Number = 0.0
):
    r"""Rise linearly from 0 to the peak, stay there, fall linearly to the floor.

    With $w$, $s$ and $d$ the steps of the three parts, $\eta_t = \eta\, t / w$ for $t < w$, $\eta$ for $t < w + s$,
    then $\eta + (f - \eta)(t - w - s) / d$; from $t = w + s + d$ on $f$.

    Source: Hu et al. 2024, section 4.2 (https://arxiv.org/abs/2404.06395). Differs from the paper: the fall is linear.

    Args:
      peak: $\eta$, the largest value, any number.
      warmup_steps: $w$, in [0, inf).
      stable_steps: $s$, in [0, inf).
      decay_steps: $d$, in [0, inf).
      floor: $f$, the last value, at most the peak.

    Raises:
      ValueError: if the floor is above a peak of 0 or more.

    >>> import gdjax as gd
    >>> rate = gd.warmup_stable_decay(1.0, 10, 80, 10)
    >>> print([round(float(rate(step)), 3) for step in (0, 5, 50, 95, 100)])
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    require_order("warmup_stable_decay", "floor", floor, "peak", peak)

    def at(count):
        fallen = progress(after(count, warmup_steps + stable_steps), decay_steps)
        rising = peak * progress(after(count), warmup_steps)
        return jnp.where(after(count, warmup_steps) < 0, rising, between(peak, floor, 1.0 - fallen))

    return at


@schedule
def warmup_constant_schedule(init_value: Number, peak_value: Number, warmup_steps: Number):
    """Go linearly from one value to another and stay there: `linear_schedule`.

    With a warm-up of no steps it stays at the first value, as in Optax.

    Args:
      init_value: the first value, any number.
      peak_value: the last value, any number.
      warmup_steps: the step that reaches it, any number.

    >>> import gdjax as gd
    >>> rate = gd.warmup_constant_schedule(0.0, 1.0, 100)
    >>> print(rate(0), rate(50), rate(1_000))
    0.0 0.5 1.0
    """
    return linear_schedule(init_value, peak_value, warmup_steps)


@schedule
def warmup_cosine_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Steps,
    decay_steps: Steps,
    end_value: Number = 0.0,
    exponent: NonNegative = 1.0,
):
    r"""Go linearly to the peak, then along half a cosine to the end.

    $\eta_t = \eta_0 + (\eta - \eta_0)\, t / w$ for $t < w$; then $\eta_t = e + (\eta - e)\, c^p$ with
    $c = (1 + \cos \pi x) / 2$, $x = (t - w) / (T - w)$; from $t = T$ on $e$.

    Source: Loshchilov and Hutter 2016, equation 5, one run of it (https://arxiv.org/abs/1608.03983).
    With a peak of 0 it stays at 0 after the warm-up, as in Optax, where $e$ is a share of the peak.

    Args:
      init_value: $\eta_0$, any number.
      peak_value: $\eta$, any number.
      warmup_steps: $w$, the step that reaches it, in [0, decay_steps).
      decay_steps: $T$, the step that reaches the end, the warm-up counted in, in (0, inf).
      end_value: $e$, any number.
      exponent: $p$, in [0, inf).

    Raises:
      ValueError: if the warm-up is not shorter than the whole.

    >>> import gdjax as gd
    >>> rate = gd.warmup_cosine_decay_schedule(0.5, 1.0, 10, 110)
    >>> print([round(float(rate(step)), 3) for step in (0, 5, 10, 60, 110)])
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """
    require_less("warmup_cosine_decay_schedule", "warmup_steps", warmup_steps, "decay_steps", decay_steps)
    end = jnp.where(peak_value == 0, 0.0, end_value)
    return _risen_then_cosine(init_value, peak_value, warmup_steps, decay_steps, end, exponent)


def _risen_then_cosine(
    first: Any, peak: Any, warmup_steps: Any, total_steps: Any, last: Any, exponent: Any
) -> Callable[[Any], jax.Array]:
    """Rise along a line to the peak, then fall along half a cosine to the last value."""

    def at(count):
        passed = after(count, warmup_steps)
        rising = between(first, peak, 1.0 - progress(after(count), warmup_steps, empty=0.0))
        left = half_cosine(progress(passed, total_steps - warmup_steps))
        return jnp.where(passed < 0, rising, between(peak, last, raised(left, exponent)))

    return at


@schedule
def warmup_exponential_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: Steps,
    transition_steps: Number,
    decay_rate: NonNegative,
    transition_begin: Number = 0,
    staircase: bool = False,
    end_value: Number | None = None,
):
    r"""Go linearly to the peak, then decay exponentially: `linear_schedule` and `exponential_decay`, joined.

    Args:
      init_value: the first value, any number.
      peak_value: the value at which the decay begins, any number.
      warmup_steps: the step that reaches it, in [0, inf).
      transition_steps, decay_rate, transition_begin, staircase, end_value: as in `exponential_decay`, the steps counted
        from the peak.

    >>> import gdjax as gd
    >>> rate = gd.warmup_exponential_decay_schedule(0.0, 1.0, 10, 100, 0.5)
    >>> print(rate(5), rate(10), rate(110))
    0.5 1.0 0.5
    """
    rise = linear_schedule(init_value, peak_value, warmup_steps)
    decay = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return join_schedules([rise, decay], [warmup_steps])
