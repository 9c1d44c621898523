"""Schedules in cycles: one of them, several, without end."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gdjax.schedules.joining import join_schedules
from gdjax.schedules.piecewise import LEFT
from gdjax.schedules.progress import (
    Factor,
    Number,
    Share,
    after,
    between,
    half_cosine,
    progress,
    require_order,
    through,
)
from gdjax.schedules.warming import warmup_cosine_decay_schedule
from gdjax.value import Interval, Scalar, schedule
from gdjax.value.printing import brief


@schedule
def linear_onecycle_schedule(
    transition_steps: Factor,
    peak_value: Number,
    pct_start: Share = 0.3,
    pct_final: Share = 0.85,
    div_factor: Factor = 25.0,
    final_div_factor: Factor = 1e4,
):
    r"""Rise to a peak, fall back, fall further, along lines.

    From $\eta / d$ at $t = 0$ to $\eta$ at $pT$, $\eta / d$ at $qT$ and $\eta / (d f)$ at $T$.

    Source: Smith and Topin 2017, the policy of one cycle (https://arxiv.org/abs/1708.07120). Differs from Optax: $pT$
    and $qT$ are not rounded down to whole steps, so that the shares have derivatives.

    Args:
      transition_steps: $T$, in (0, inf).
      peak_value: $\eta$, any number.
      pct_start: $p$, the share of the rise, in [0, 1].
      pct_final: $q$, the share of the rise and the fall, in [p, 1].
      div_factor: $d$, in (0, inf).
      final_div_factor: $f$, in (0, inf).

    Raises:
      ValueError: if the rise is longer than the rise and the fall.

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
        return through(count, levels, boundaries, LEFT["linear"])

    return at


@schedule
def cosine_onecycle_schedule(
    transition_steps: Factor,
    peak_value: Number,
    pct_start: Share = 0.3,
    div_factor: Factor = 25.0,
    final_div_factor: Factor = 1e4,
):
    r"""Rise to a peak and fall below the first value, each along half a cosine.

    From $\eta / d$ at $t = 0$ to $\eta$ at $pT$ and $\eta / (d f)$ at $T$.

    Source: as `linear_onecycle_schedule`, in two parts. Differs from Optax: as there.

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
        return through(count, levels, boundaries, LEFT["cosine"])

    return at


@schedule
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Number]]):
    """Warm up and fall along half a cosine, again and again: `warmup_cosine_decay_schedule`, joined.

    Source: Loshchilov and Hutter 2016, section 3 (https://arxiv.org/abs/1608.03983); `warm_restarts` is their rule.

    Args:
      cosine_kwargs: of each cycle the arguments of `warmup_cosine_decay_schedule`, at least one.

    Raises:
      TypeError: if `cosine_kwargs` is no list of dicts, or a cycle lacks an argument or has an unknown one.
      ValueError: if there is no cycle.

    >>> import gdjax as gd
    >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=10, decay_steps=110)
    >>> rate = gd.sgdr_schedule([cycle, cycle])
    >>> print([round(float(rate(step)), 3) for step in (0, 10, 60, 110, 120, 220)])
    [0.0, 1.0, 0.5, 0.0, 1.0, 0.0]
    """
    is_list = isinstance(cosine_kwargs, (list, tuple))
    if not is_list or not cosine_kwargs:
        must = "must be a list of dicts, one for each cycle and at least one"
        raise (ValueError if is_list else TypeError)(
            f"sgdr_schedule: cosine_kwargs {must}, got {brief(cosine_kwargs)}."
        )
    if strange := [kwargs for kwargs in cosine_kwargs if not isinstance(kwargs, Mapping)]:
        must = "must be dicts of the arguments of warmup_cosine_decay_schedule"
        raise TypeError(f"sgdr_schedule: cosine_kwargs {must}, got {brief(strange[0])}.")
    cycles = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cosine_kwargs]
    ends = itertools.accumulate(cycle.decay_steps for cycle in cycles)
    return join_schedules(cycles, list(ends)[:-1])


@schedule
def warm_restarts(
    peak: Number,
    cycle_steps: Factor,
    growth: Annotated[Scalar, Interval("[1, inf)")] = 1.0,
    shrink: Annotated[Scalar, Interval("(0, 1]")] = 1.0,
    floor: Number = 0.0,
):
    r"""Fall along half a cosine and start again at the peak, cycle after cycle, without an end.

    Cycle $i = 0, 1, \dots$ takes $T_i = T g^i$ steps. In it $\eta_t = f + (\eta s^i - f)(1 + \cos \pi x) / 2$ with
    $x = (t - T_0 - \dots - T_{i-1}) / T_i$. In float32 cycles that grow begin within half a step of where they should
    up to step 500,000, and within two millionths of the count later on.

    Source: Loshchilov and Hutter 2016, equation 5 with $T_{mult} = g$ (https://arxiv.org/abs/1608.03983). Differs from
    the paper: the peak may shrink from cycle to cycle.

    Args:
      peak: $\eta$, the first value, any number.
      cycle_steps: $T$, the steps of the first cycle, in (0, inf).
      growth: $g$, how much longer each cycle is than the one before, in [1, inf).
      shrink: $s$, how high its peak is beside the one before, in (0, 1].
      floor: $f$, the value at the end of each cycle, at most the peak.

    Raises:
      ValueError: if the floor is above the peak.

    >>> import gdjax as gd
    >>> rate = gd.warm_restarts(1.0, 100, growth=2.0, shrink=0.5)
    >>> print([round(float(rate(step)), 3) for step in (0, 50, 100, 200, 300)])
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """
    require_order("warm_restarts", "floor", floor, "peak", peak)

    def start(cycle):
        return _to_the_step(cycle_steps * _sum_of_powers(growth, cycle))

    def at(count):
        count = after(count)
        guess = _cycle(count / cycle_steps, growth)  # rounding may miss by one
        later = jnp.where(count < start(guess + 1.0), guess, guess + 1.0)
        cycle = jnp.where(count < start(guess), guess - 1.0, later)
        done = progress(count - start(cycle), start(cycle + 1.0) - start(cycle))
        return between(peak * jnp.power(shrink, cycle), floor, half_cosine(done))

    return at


def _cycle(cycles: jax.Array, growth: Any) -> jax.Array:
    """The cycle reached after the time of so many first ones."""
    extra = growth - 1.0
    some = jnp.where(extra == 0, 1.0, extra)
    return jnp.floor(jnp.where(extra == 0, cycles, jnp.log1p(cycles * some) / jnp.log1p(some)))


def _sum_of_powers(growth: Any, n: jax.Array) -> jax.Array:
    """The sum of `growth**k` over k < n; at a growth of 1 with the derivative that it has there."""
    extra = growth - 1.0
    some, few = jnp.where(extra == 0, 1.0, extra), jnp.where(extra == 0, 0.0, n)
    return jnp.where(extra == 0, n + 0.5 * n * (n - 1.0) * extra, jnp.expm1(few * jnp.log1p(some)) / some)


def _to_the_step(count: jax.Array) -> jax.Array:
    """The whole count from which a count cannot be told but by rounding, if there is one."""
    off = jax.lax.stop_gradient(jnp.round(count) - count)
    return count + jnp.where(jnp.abs(off) <= 24 * jnp.finfo(count.dtype).eps * count, off, 0.0)
