"""Cyclic schedules: one cycle, several, or without end."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from gdjax.schedules.joining import join_schedules
from gdjax.schedules.piecewise import REMAINING
from gdjax.schedules.progress import (
    FinitePositive,
    Fraction,
    Number,
    elapsed_steps,
    half_cosine,
    interpolate,
    interpolate_levels,
    progress,
    require_order,
)
from gdjax.schedules.warming import warmup_cosine_decay_schedule
from gdjax.value import Interval, Scalar, schedule
from gdjax.value.printing import brief


@schedule
def linear_onecycle_schedule(
    transition_steps: FinitePositive,
    peak_value: Number,
    pct_start: Fraction = 0.3,
    pct_final: Fraction = 0.85,
    div_factor: FinitePositive = 25.0,
    final_div_factor: FinitePositive = 1e4,
):
    r"""Rise linearly to a peak, fall back, then fall further.

    The value is $\eta / d$ at $t = 0$, $\eta$ at $pT$, $\eta / d$ at $qT$ and $\eta / (d f)$ at $T$.

    Source: Smith and Topin 2017, the 1cycle policy (https://arxiv.org/abs/1708.07120). Differs from Optax: $pT$ and
    $qT$ are not rounded down to whole steps, so the schedule has derivatives with respect to $p$ and $q$.

    Args:
      transition_steps: $T$, the length of the cycle in steps, in (0, inf).
      peak_value: $\eta$, in (-inf, inf).
      pct_start: $p$, the fraction of the cycle at which the peak is reached, in [0, 1].
      pct_final: $q$, the fraction at which the value is back at $\eta / d$, in [p, 1].
      div_factor: $d$, the peak over the initial value, in (0, inf).
      final_div_factor: $f$, the initial value over the final value, in (0, inf).

    Raises:
      ValueError: `pct_start` exceeds `pct_final`.

    >>> import gdjax as gd
    >>> rate = gd.linear_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=10.0)
    >>> print(rate(0), rate(30), rate(85), rate(100))
    0.25 1.0 0.25 0.025
    """
    require_order("linear_onecycle_schedule", "pct_start", pct_start, "pct_final", pct_final)

    def at(count):
        low = peak_value / div_factor
        boundaries = pct_start * transition_steps, pct_final * transition_steps, transition_steps
        levels = low, peak_value, low, low / final_div_factor
        return interpolate_levels(count, levels, boundaries, REMAINING["linear"])

    return at


@schedule
def cosine_onecycle_schedule(
    transition_steps: FinitePositive,
    peak_value: Number,
    pct_start: Fraction = 0.3,
    div_factor: FinitePositive = 25.0,
    final_div_factor: FinitePositive = 1e4,
):
    r"""Rise to a peak and fall below the initial value, each along half a cosine.

    The value is $\eta / d$ at $t = 0$, $\eta$ at $pT$ and $\eta / (d f)$ at $T$.

    Source and difference from Optax: as for `linear_onecycle_schedule`, but with two phases.

    Args:
      transition_steps, peak_value, pct_start, div_factor, final_div_factor: as in `linear_onecycle_schedule`.

    >>> import gdjax as gd
    >>> rate = gd.cosine_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=10.0)
    >>> print(rate(0), rate(30), rate(100))
    0.25 1.0 0.025
    """

    def at(count):
        low = peak_value / div_factor
        boundaries = pct_start * transition_steps, transition_steps
        levels = low, peak_value, low / final_div_factor
        return interpolate_levels(count, levels, boundaries, REMAINING["cosine"])

    return at


@schedule
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Number]]):
    """Repeat cycles of warm-up and cosine decay: `warmup_cosine_decay_schedule`, joined.

    Source: Loshchilov and Hutter 2016, section 3 (https://arxiv.org/abs/1608.03983). `warm_restarts` is their rule.

    Args:
      cosine_kwargs: for each cycle, the arguments of `warmup_cosine_decay_schedule`; at least one cycle.

    Raises:
      TypeError: `cosine_kwargs` is not a list of dicts, or a cycle has a missing or unknown argument.
      ValueError: the list is empty.

    >>> import gdjax as gd
    >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=10, decay_steps=110)
    >>> rate = gd.sgdr_schedule([cycle, cycle])
    >>> print([round(float(rate(step)), 3) for step in (0, 10, 60, 110, 120, 220)])
    [0.0, 1.0, 0.5, 0.0, 1.0, 0.0]
    """
    is_list = isinstance(cosine_kwargs, (list, tuple))
    if not is_list or not cosine_kwargs:
        must = "must be a list of dicts, one per cycle and at least one"
        raise (ValueError if is_list else TypeError)(
            f"sgdr_schedule: cosine_kwargs {must}, got {brief(cosine_kwargs)}."
        )
    if wrong := [kwargs for kwargs in cosine_kwargs if not isinstance(kwargs, Mapping)]:
        must = "must be dicts of the arguments of warmup_cosine_decay_schedule"
        raise TypeError(f"sgdr_schedule: cosine_kwargs {must}, got {brief(wrong[0])}.")
    cycles = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cosine_kwargs]
    ends = itertools.accumulate(cycle.decay_steps for cycle in cycles)
    return join_schedules(cycles, list(ends)[:-1])


@schedule
def warm_restarts(
    peak: Number,
    cycle_steps: FinitePositive,
    growth: Annotated[Scalar, Interval("[1, inf)")] = 1.0,
    shrink: Annotated[Scalar, Interval("(0, 1]")] = 1.0,
    floor: Number = 0.0,
):
    r"""Fall along half a cosine and restart at the peak, cycle after cycle, without end.

    Cycle $i = 0, 1, \dots$ takes $T_i = T g^i$ steps. In it, $\eta_t = f + (\eta s^i - f)(1 + \cos \pi x) / 2$ with
    $x = (t - T_0 - \dots - T_{i-1}) / T_i$. In float32, growing cycles start within half a step of the exact time up to
    step 500,000, and within two millionths of the count later.

    Source: Loshchilov and Hutter 2016, equation 5 with $T_{mult} = g$ (https://arxiv.org/abs/1608.03983). Differs from
    the paper: the peak may shrink from cycle to cycle.

    Args:
      peak: $\eta$, the initial value, in (-inf, inf).
      cycle_steps: $T$, the length of the first cycle in steps, in (0, inf).
      growth: $g$, the length of each cycle over the previous one, in [1, inf).
      shrink: $s$, the peak of each cycle over the previous one, in (0, 1].
      floor: $f$, the value at the end of each cycle, at most the peak.

    Raises:
      ValueError: the floor is above a peak of 0 or more.

    >>> import gdjax as gd
    >>> rate = gd.warm_restarts(1.0, 100, growth=2.0, shrink=0.5)
    >>> print([round(float(rate(step)), 3) for step in (0, 50, 100, 200, 300)])
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """
    require_order("warm_restarts", "floor", floor, "peak", peak)

    def start(cycle):
        return _round_to_step(cycle_steps * _sum_of_powers(growth, cycle))

    def at(count):
        count = elapsed_steps(count)
        guess = _cycle_index(count / cycle_steps, growth)  # rounding may make it off by one
        at_least_guess = jnp.where(count < start(guess + 1.0), guess, guess + 1.0)
        cycle = jnp.where(count < start(guess), guess - 1.0, at_least_guess)
        done = progress(count - start(cycle), start(cycle + 1.0) - start(cycle))
        return interpolate(peak * jnp.power(shrink, cycle), floor, half_cosine(done))

    return at


def _cycle_index(elapsed: jax.Array, growth: Scalar) -> jax.Array:
    """Return the index of the current cycle, given the elapsed time in lengths of the first cycle."""
    extra = growth - 1.0
    nonzero = jnp.where(extra == 0, 1.0, extra)
    return jnp.floor(jnp.where(extra == 0, elapsed, jnp.log1p(elapsed * nonzero) / jnp.log1p(nonzero)))


def _sum_of_powers(growth: Scalar, n: jax.Array) -> jax.Array:
    """Return the sum of `growth**k` for k < n, with the right derivative also at a growth of 1."""
    extra = growth - 1.0
    nonzero, terms = jnp.where(extra == 0, 1.0, extra), jnp.where(extra == 0, 0.0, n)
    return jnp.where(extra == 0, n + 0.5 * n * (n - 1.0) * extra, jnp.expm1(terms * jnp.log1p(nonzero)) / nonzero)


def _round_to_step(count: jax.Array) -> jax.Array:
    """Round a count to an integer if it differs from one by rounding error alone."""
    off = jax.lax.stop_gradient(jnp.round(count) - count)
    return count + jnp.where(jnp.abs(off) <= 24 * jnp.finfo(count.dtype).eps * count, off, 0.0)
