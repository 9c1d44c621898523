"""Schedules against their formulas, in NumPy's float64, and against Optax's."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd

STEPS = 45
"""Counts tried: more than any schedule below takes to end."""


def ramp(t, start, steps):
    """The share of a part that is done; a part of no steps is over at once."""
    if steps == 0:
        return float(t >= start)
    return min(1.0, max(0.0, (t - start) / steps))


def polynomial(t, first, last, power, steps, begin=0):
    return last + (first - last) * (1 - ramp(t, begin, steps)) ** power


def cosine(t, first, last, steps, begin=0, exponent=1.0):
    return last + (first - last) * ((1 + math.cos(math.pi * ramp(t, begin, steps))) / 2) ** exponent


def exponential(t, first, steps, rate, begin=0, staircase=False, end=None):
    x = max(0, t - begin) / steps
    value = first * rate ** (math.floor(x) if staircase else x)
    return value if end is None else (max if rate < 1 else min)(value, end)


def warmup(t, first, peak, steps, then):
    return first + (peak - first) * t / steps if t < steps else then(t - steps)


def trapezoid(t, peak, rise, stable, decay, floor):
    return warmup(t, 0.0, peak, rise, lambda t: polynomial(t, peak, floor, 1, decay, stable))


def levels(t, first, scales, curve):
    """From level to level, at each boundary a scale times the one before."""
    start, level = 0, first
    for end, scale in scales.items():
        if t < end:
            return curve(t - start, level, level * scale, end - start)
        start, level = end, level * scale
    return level


def restarts(t, peak, steps, growth=1.0, shrink=1.0, floor=0.0):
    """The paper's loop: when a cycle is over, the next one is longer."""
    while t >= steps:
        t, steps, peak = t - steps, steps * growth, peak * shrink
    return cosine(t, peak, floor, steps)


def inverse_root(t, peak, steps):
    """Equation 3 of Vaswani et al., with peak = (d_model steps)^(-1/2)."""
    return peak * steps**0.5 * min(t**-0.5, t * steps**-1.5) if t else 0.0


def slow_mean(t, b1, b3, steps):
    """The decay whose half-life is so far on the line between those of both."""
    half_lives = [math.log(0.5) / math.log(b) for b in (b1, b3)]
    return 0.5 ** (1 / (half_lives[0] + (half_lives[1] - half_lives[0]) * ramp(t, 0, steps)))


def line(t, first, last, steps):
    return polynomial(t, first, last, 1, steps)


CYCLE = {"init_value": 0.1, "peak_value": 0.7, "warmup_steps": 2, "decay_steps": 10}
FALL = {"init_value": 0.3, "peak_value": 0.3, "warmup_steps": 0, "decay_steps": 15, "exponent": 2.0}
FORMULAS = {
    "constant": (gd.constant(0.3), lambda t: 0.3),
    "constant_schedule": (gd.constant_schedule(0.3), lambda t: 0.3),
    "linear": (gd.linear_schedule(0.3, 0.1, 20, 5), lambda t: line(t - 5, 0.3, 0.1, 20)),
    "polynomial": (gd.polynomial_schedule(0.3, 0.1, 2.5, 20, 5), lambda t: polynomial(t, 0.3, 0.1, 2.5, 20, 5)),
    "root": (gd.polynomial_schedule(0.1, 0.3, 0.5, 20), lambda t: polynomial(t, 0.1, 0.3, 0.5, 20)),
    "exponential": (gd.exponential_decay(0.3, 7, 0.8, 3), lambda t: exponential(t, 0.3, 7, 0.8, 3)),
    "staircase": (
        gd.exponential_decay(0.3, 7, 0.5, 3, True, 0.05),
        lambda t: exponential(t, 0.3, 7, 0.5, 3, True, 0.05),
    ),
    "growth": (
        gd.exponential_decay(0.01, 7, 2.5, end_value=0.3),
        lambda t: exponential(t, 0.01, 7, 2.5, end=0.3),
    ),
    "cosine": (gd.cosine_decay_schedule(0.3, 30), lambda t: cosine(t, 0.3, 0, 30)),
    "cosine to a share": (
        gd.cosine_decay_schedule(0.3, 30, 0.1, 1.5),
        lambda t: cosine(t, 0.3, 0.03, 30, exponent=1.5),
    ),
    "piecewise constant": (
        gd.piecewise_constant_schedule(0.3, {20: 0.1, 10: 0.5}),
        lambda t: levels(t, 0.3, {10: 0.5, 20: 0.1}, lambda t, first, last, steps: first),
    ),
    "piecewise of one": (gd.piecewise_constant_schedule(0.3), lambda t: 0.3),
    "piecewise lines": (
        gd.piecewise_interpolate_schedule("linear", 0.3, {20: 2.0, 10: 0.5}),
        lambda t: levels(t, 0.3, {10: 0.5, 20: 2.0}, line),
    ),
    "piecewise cosines": (
        gd.piecewise_interpolate_schedule("cosine", 0.3, {10: 0.5, 20: 0.0, 30: 2.0}),
        lambda t: levels(t, 0.3, {10: 0.5, 20: 0.0, 30: 2.0}, cosine),
    ),
    "piecewise line of none": (gd.piecewise_interpolate_schedule("linear", 0.3), lambda t: 0.3),
    "linear onecycle": (
        gd.linear_onecycle_schedule(20, 0.3, div_factor=5, final_div_factor=4),
        lambda t: levels(t, 0.06, {6: 5, 17: 0.2, 20: 0.25}, line),
    ),
    "cosine onecycle": (
        gd.cosine_onecycle_schedule(20, 0.3, 0.4, 5, 4),
        lambda t: levels(t, 0.06, {8: 5, 20: 0.05}, cosine),
    ),
    "onecycle between steps": (
        gd.linear_onecycle_schedule(10, 0.3, 0.25, 0.75),
        lambda t: levels(t, 0.012, {2.5: 25, 7.5: 0.04, 10: 1e-4}, line),
    ),
    "sgdr": (
        gd.sgdr_schedule([CYCLE, FALL]),
        lambda t: (
            warmup(t, 0.1, 0.7, 2, lambda t: cosine(t, 0.7, 0, 8)) if t < 10 else cosine(t - 10, 0.3, 0, 15, 0, 2)
        ),
    ),
    "warmup constant": (gd.warmup_constant_schedule(0.1, 0.3, 7), lambda t: line(t, 0.1, 0.3, 7)),
    "warmup cosine decay": (
        gd.warmup_cosine_decay_schedule(0.1, 0.3, 7, 20, 0.05, 2),
        lambda t: warmup(t, 0.1, 0.3, 7, lambda t: cosine(t, 0.3, 0.05, 13, exponent=2)),
    ),
    "warmup exponential decay": (
        gd.warmup_exponential_decay_schedule(0.1, 0.3, 7, 5, 0.8, 2, False, 0.05),
        lambda t: warmup(t, 0.1, 0.3, 7, lambda t: exponential(t, 0.3, 5, 0.8, 2, False, 0.05)),
    ),
    "joined": (
        gd.join_schedules(
            [gd.constant(0.1), gd.warmup_cosine(0.5, 5, 20), lambda t: 0.2 / (1 + jnp.asarray(t, float))], [6, 26]
        ),
        lambda t: (
            0.1 if t < 6 else warmup(t - 6, 0, 0.5, 5, lambda t: cosine(t, 0.5, 0, 15)) if t < 26 else 0.2 / (t - 25)
        ),
    ),
    "warmup cosine": (
        gd.warmup_cosine(0.3, 4, 20, 0.1),
        lambda t: warmup(t, 0, 0.3, 4, lambda t: cosine(t, 0.3, 0.1, 16)),
    ),
    "warmup stable decay": (gd.warmup_stable_decay(0.3, 4, 10, 6, 0.1), lambda t: trapezoid(t, 0.3, 4, 10, 6, 0.1)),
    "inverse root": (gd.inverse_sqrt(0.3, 7), lambda t: inverse_root(t, 0.3, 7)),
    "inverse root in time": (
        gd.inverse_sqrt(0.3, 7, 20),
        lambda t: warmup(t, 0, 0.3, 7, lambda t: 0.3 / math.sqrt((t + 20) / 20)),
    ),
    "inverse root, cold": (gd.inverse_sqrt(0.3, 0, 20), lambda t: 0.3 / math.sqrt(1 + t / 20)),
    "restarts": (gd.warm_restarts(0.3, 7), lambda t: restarts(t, 0.3, 7)),
    "longer restarts": (gd.warm_restarts(0.3, 3, 2), lambda t: restarts(t, 0.3, 3, 2)),
    "lower restarts": (gd.warm_restarts(0.3, 4, 1.5, 0.8, 0.01), lambda t: restarts(t, 0.3, 4, 1.5, 0.8, 0.01)),
    "ever lower restarts": (gd.warm_restarts(0.3, 7, 1.05, 0.01), lambda t: restarts(t, 0.3, 7, 1.05, 0.01)),
    "scaled": (gd.scaled(gd.linear_schedule(0.3, 0.1, 20), 0.5), lambda t: line(t, 0.15, 0.05, 20)),
    "scaled number": (gd.scaled(0.3, 0.5), lambda t: 0.15),
    "ademamix alpha": (gd.ademamix_alpha(5, 20), lambda t: 5 * ramp(t, 0, 20)),
    "ademamix b3": (gd.ademamix_b3(0.9, 0.999, 20), lambda t: slow_mean(t, 0.9, 0.999, 20)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_its_formula_at_every_step(name):
    rate, formula = FORMULAS[name]
    expected = [formula(t) for t in range(STEPS)]
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(STEPS)), expected, rtol=5e-6, atol=1e-7)
    np.testing.assert_allclose(
        [rate(t) for t in (0, 6, STEPS)], [formula(t) for t in (0, 6, STEPS)], rtol=5e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_its_formula_in_float64(name):
    rate, formula = FORMULAS[name]
    with jax.enable_x64(True):
        found = jax.vmap(rate)(jnp.arange(STEPS))
        assert found.dtype == rate(jnp.float64(3)).dtype == jnp.float64
        np.testing.assert_allclose(found, [formula(t) for t in range(STEPS)], rtol=1e-11, atol=1e-15)


def test_every_schedule_has_a_formula():
    own = {name for name, f in gd.factories().items() if f.kind is gd.Schedule}
    assert own == {value.factory.__name__ for value, _ in FORMULAS.values()}


PARITY = {
    "constant": lambda lib: lib.constant_schedule(0.3),
    "linear": lambda lib: lib.linear_schedule(0.3, 0.1, 20, 5),
    "polynomial": lambda lib: lib.polynomial_schedule(0.3, 0.1, 2.5, 20, 5),
    "power 0": lambda lib: lib.polynomial_schedule(0.3, 0.1, 0, 20),
    "exponential": lambda lib: lib.exponential_decay(0.3, 7, 0.8, 3),
    "staircase": lambda lib: lib.exponential_decay(0.3, 7, 0.5, 3, True, 0.05),
    "growth": lambda lib: lib.exponential_decay(0.01, 7, 2.5, end_value=0.3),
    "cosine": lambda lib: lib.cosine_decay_schedule(0.3, 30, 0.1, 1.5),
    "piecewise constant": lambda lib: lib.piecewise_constant_schedule(0.3, {20: 0.1, 10: 0.5}),
    "piecewise lines": lambda lib: lib.piecewise_interpolate_schedule("linear", 0.3, {20: 2.0, 10: 0.5}),
    "piecewise cosines": lambda lib: lib.piecewise_interpolate_schedule("cosine", 0.3, {0: 0.5, 10: 0.5, 20: 0.0}),
    "linear onecycle": lambda lib: lib.linear_onecycle_schedule(40, 0.3),
    "cosine onecycle": lambda lib: lib.cosine_onecycle_schedule(20, 0.3, 0.25),
    "sgdr": lambda lib: lib.sgdr_schedule([CYCLE, FALL]),
    "warmup constant": lambda lib: lib.warmup_constant_schedule(0.1, 0.3, 7),
    "warmup cosine decay": lambda lib: lib.warmup_cosine_decay_schedule(0.1, 0.3, 7, 20, 0.05, 2),
    "no warmup": lambda lib: lib.warmup_cosine_decay_schedule(0.1, 0.3, 0, 20),
    "warmup exponential decay": lambda lib: lib.warmup_exponential_decay_schedule(0.1, 0.3, 7, 5, 0.8, 2, True, 0.05),
    "joined": lambda lib: lib.join_schedules([lib.linear_schedule(0.1, 0.3, 9), lambda t: 0.3 / (t + 20)], [9]),
}


@pytest.mark.parametrize("make", PARITY.values(), ids=PARITY)
def test_it_is_optaxs(make):
    ours, theirs = make(gd), make(optax)
    assert isinstance(ours, gd.Schedule)
    expected = [theirs(t) for t in range(STEPS)]
    np.testing.assert_allclose(jax.vmap(ours)(jnp.arange(STEPS)), expected, rtol=5e-6, atol=1e-7)


def test_the_short_names_are_optaxs_with_fewer_words():
    counts = jnp.arange(STEPS)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.3, 4, 20)
    np.testing.assert_allclose(jax.vmap(gd.warmup_cosine(0.3, 4, 20))(counts), jax.vmap(theirs)(counts), 5e-6, 1e-7)
    cycles = [{"init_value": 0.3, "peak_value": 0.3, "warmup_steps": 0, "decay_steps": 3 * 2**i} for i in range(4)]
    theirs = optax.sgdr_schedule(cycles)
    np.testing.assert_allclose(jax.vmap(gd.warm_restarts(0.3, 3, 2))(counts), jax.vmap(theirs)(counts), 5e-6, 1e-7)


def first_steps(steps, growth, most):
    """The steps at which cycles begin, in exact arithmetic, where they are whole numbers."""
    ends, length = [Fraction(steps)], Fraction(steps)
    while ends[-1] < most and len(ends) < 1_000:
        length *= growth
        ends.append(ends[-1] + length)
    return np.array([int(end) for end in ends if end < most and end.denominator == 1])


@pytest.mark.parametrize("growth", ["1", "1.1", "1.5", "2", "3", "10"])
@pytest.mark.parametrize("steps", [1, 3, 10, 1000])
def test_warm_restarts_begin_at_the_very_step(steps, growth):
    rate = gd.warm_restarts(1.0, steps, float(growth))
    at = jax.jit(lambda rate, counts: jax.vmap(rate)(counts))
    ends = first_steps(steps, Fraction(growth), 2**24 if growth == "1" else 500_000)
    np.testing.assert_array_equal(at(rate, ends), 1.0)
    np.testing.assert_array_equal(jax.vmap(rate)(ends), 1.0)
    before = [restarts(end - 1, 1.0, steps, float(growth)) for end in ends]
    np.testing.assert_allclose(at(rate, ends - 1), before, atol=2e-6)
    later = first_steps(steps, Fraction(growth), 2**24)[len(ends) :]
    for end in later:
        assert np.argmax(np.diff(at(rate, np.arange(end - 40, end + 40)))) == pytest.approx(39, abs=2e-6 * end)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(at(rate, first_steps(steps, Fraction(growth), 10**9)), 1.0)
