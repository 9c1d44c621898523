"""Schedules with a warm-up."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.schedules.decaying import exponential_decay, linear_schedule
from gdjax.schedules.joining import join_schedules
from gdjax.schedules.progress import (
    Number,
    Steps,
    elapsed_steps,
    half_cosine,
    interpolate,
    progress,
    require_less,
    require_order,
    safe_power,
)
from gdjax.value import NonNegative, Scalar, schedule


@schedule
def warmup_cosine(peak: Number, warmup_steps: Steps, total_steps: Steps, floor: Number = 0.0):
    r"""Rise linearly from 0 to the peak, then fall along half a cosine to the floor.

    $\eta_t = \eta\, t / w$ for $t < w$; then $\eta_t = f + (\eta - f) (1 + \cos \pi x) / 2$ with
    $x = (t - w) / (T - w)$, at most 1. With $w = 0$, the first step is at the peak.

    Source: Loshchilov and Hutter 2016, equation 5, for one cycle (https://arxiv.org/abs/1608.03983).

    Args:
      peak: $\eta$, the largest value, in (-inf, inf).
      warmup_steps: $w$, the step that reaches the peak, in [0, total_steps].
      total_steps: $T$, the step that reaches the floor, in [0, inf).
      floor: $f$, the final value, at most the peak.

    Raises:
      ValueError: `warmup_steps` exceeds `total_steps`, or the floor is above a peak of 0 or more.

    >>> import gdjax as gd
    >>> rate = gd.warmup_cosine(1.0, 10, 110)
    >>> print([round(float(rate(step)), 3) for step in (0, 5, 10, 60, 110)])
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    require_order("warmup_cosine", "warmup_steps", warmup_steps, "total_steps", total_steps)
    require_order("warmup_cosine", "floor", floor, "peak", peak)
    return _linear_then_cosine(0.0, peak, warmup_steps, total_steps, floor, 1.0)


@schedule
def warmup_stable_decay(
    peak: Number, warmup_steps: Steps, stable_steps: Steps, decay_steps: Steps, floor: Number = 0.0
):
    r"""Rise linearly from 0 to the peak, stay there, then fall linearly to the floor.

    $\eta_t = \eta\, t / w$ for $t < w$, then $\eta$ for $t < w + s$, then $\eta + (f - \eta)(t - w - s) / d$ until
    $t = w + s + d$, then $f$.

    Source: Hu et al. 2024, section 4.2 (https://arxiv.org/abs/2404.06395). Differs from the paper: the fall is linear.

    Args:
      peak: $\eta$, the largest value, in (-inf, inf).
      warmup_steps: $w$, the length of the rise in steps, in [0, inf).
      stable_steps: $s$, the number of steps at the peak, in [0, inf).
      decay_steps: $d$, the length of the fall in steps, in [0, inf).
      floor: $f$, the final value, at most the peak.

    Raises:
      ValueError: the floor is above a peak of 0 or more.

    >>> import gdjax as gd
    >>> rate = gd.warmup_stable_decay(1.0, 10, 80, 10)
    >>> print([round(float(rate(step)), 3) for step in (0, 5, 50, 95, 100)])
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    require_order("warmup_stable_decay", "floor", floor, "peak", peak)

    def at(count):
        decayed = progress(elapsed_steps(count, warmup_steps + stable_steps), decay_steps)
        rising = peak * progress(elapsed_steps(count), warmup_steps)
        return jnp.where(elapsed_steps(count, warmup_steps) < 0, rising, interpolate(peak, floor, 1.0 - decayed))

    return at


@schedule
def warmup_constant_schedule(init_value: Number, peak_value: Number, warmup_steps: Number):
    """Go linearly from one value to another, then stay there: `linear_schedule`.

    With `warmup_steps` of 0 or less, the value stays at the initial value, as in Optax.

    Args:
      init_value: the initial value, in (-inf, inf).
      peak_value: the final value, in (-inf, inf).
      warmup_steps: the step that reaches the final value, in (-inf, inf).

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
    $c = (1 + \cos \pi x) / 2$ and $x = (t - w) / (T - w)$, at most 1.

    Source: Loshchilov and Hutter 2016, equation 5, for one cycle (https://arxiv.org/abs/1608.03983).
    With a peak of 0, the value stays 0 after the warm-up, as in Optax, where $e$ is relative to the peak.

    Args:
      init_value: $\eta_0$, in (-inf, inf).
      peak_value: $\eta$, in (-inf, inf).
      warmup_steps: $w$, the step that reaches the peak, in [0, decay_steps).
      decay_steps: $T$, the step that reaches the final value, including the warm-up, in (0, inf).
      end_value: $e$, the final value, in (-inf, inf).
      exponent: $p$, in [0, inf).

    Raises:
      ValueError: `warmup_steps` is not less than `decay_steps`.

    >>> import gdjax as gd
    >>> rate = gd.warmup_cosine_decay_schedule(0.5, 1.0, 10, 110)
    >>> print([round(float(rate(step)), 3) for step in (0, 5, 10, 60, 110)])
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """
    require_less("warmup_cosine_decay_schedule", "warmup_steps", warmup_steps, "decay_steps", decay_steps)
    end = jnp.where(peak_value == 0, 0.0, end_value)
    return _linear_then_cosine(init_value, peak_value, warmup_steps, decay_steps, end, exponent)


def _linear_then_cosine(
    first: Scalar, peak: Scalar, warmup_steps: Scalar, total_steps: Scalar, last: Scalar, exponent: Scalar
) -> Callable[[ArrayLike], jax.Array]:
    """Go linearly to the peak, then along half a cosine to the last value."""

    def at(count):
        elapsed = elapsed_steps(count, warmup_steps)
        rising = interpolate(first, peak, 1.0 - progress(elapsed_steps(count), warmup_steps, empty=0.0))
        remaining = half_cosine(progress(elapsed, total_steps - warmup_steps))
        return jnp.where(elapsed < 0, rising, interpolate(peak, last, safe_power(remaining, exponent)))

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
      init_value: the initial value, in (-inf, inf).
      peak_value: the value at which the decay begins, in (-inf, inf).
      warmup_steps: the step that reaches the peak, in [0, inf).
      transition_steps, decay_rate, transition_begin, staircase, end_value: as in `exponential_decay`, with steps
        counted from the peak.

    >>> import gdjax as gd
    >>> rate = gd.warmup_exponential_decay_schedule(0.0, 1.0, 10, 100, 0.5)
    >>> print(rate(5), rate(10), rate(110))
    0.5 1.0 0.5
    """
    rise = linear_schedule(init_value, peak_value, warmup_steps)
    decay = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return join_schedules([rise, decay], [warmup_steps])
