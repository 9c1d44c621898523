"""Schedules: values of the step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from tests.compiling import compilations, counted
from tests.schedules.test_reference_schedules import CYCLE, FORMULAS, STEPS

VALUES = [pytest.param(value, id=name) for name, (value, _) in FORMULAS.items()]


@pytest.mark.parametrize("rate", VALUES)
def test_a_schedule_is_a_function_of_any_count_under_every_transformation(rate):
    at = jax.jit(lambda rate, count: rate(count))
    counts = jnp.arange(STEPS)
    several = jax.vmap(rate)(counts)
    for count in (0, 3, 7, STEPS - 1):
        for same in (count, jnp.int32(count), jnp.uint8(count), np.int64(count), jnp.float32(count)):
            assert rate(same).shape == ()
            np.testing.assert_allclose(rate(same), several[count], rtol=2e-6, atol=1e-8)
        np.testing.assert_allclose(at(rate, count), several[count], rtol=2e-6, atol=1e-7)
    assert rate(counts).shape == counts.shape
    np.testing.assert_allclose(rate(counts), several, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("rate", VALUES)
def test_all_its_numbers_are_leaves_and_one_compile_serves_them(rate):
    leaves, treedef = jax.tree.flatten(rate)
    assert all(isinstance(leaf, float) for leaf in leaves)
    other = treedef.unflatten([0.9 * leaf for leaf in leaves])
    at = counted(lambda rate: jax.vmap(rate)(jnp.arange(STEPS)))
    np.testing.assert_allclose(at(rate), jax.vmap(rate)(jnp.arange(STEPS)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(at(other), jax.vmap(other)(jnp.arange(STEPS)), rtol=1e-5, atol=1e-6)
    assert compilations(at) == 1
    stacked = jax.vmap(at)(gd.stack([rate, other]))
    np.testing.assert_allclose(stacked, [at(rate), at(other)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", VALUES)
def test_the_derivative_by_every_number_is_that_of_differences(rate):
    leaves, treedef = jax.tree.flatten(rate)
    with jax.enable_x64(True):
        counts = jnp.array([0.37, 1.3, 3.3, 5.7, 9.2, 13.4, 19.1, 23.7, 41.9])  # between all kinks
        at = jax.jit(lambda leaves: jax.vmap(treedef.unflatten(leaves))(counts))
        derivatives = jax.jacfwd(at)(leaves)
        for i, leaf in enumerate(leaves):
            step = 1e-6 * max(1.0, abs(leaf))
            low = leaf if leaf == 0 else leaf - step  # a start before step 0 counts as 0: from there on
            ends = [at([*leaves[:i], end, *leaves[i + 1 :]]) for end in (low, leaf + step)]
            differences = (ends[1] - ends[0]) / (leaf + step - low)
            np.testing.assert_allclose(derivatives[i], differences, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rate", VALUES)
def test_derivatives_are_finite_at_every_step(rate):
    slopes = jax.jacrev(lambda rate: jax.vmap(rate)(jnp.arange(STEPS)))(rate)
    assert all(jnp.isfinite(slope).all() for slope in jax.tree.leaves(slopes))


@pytest.mark.parametrize("rate", VALUES)
def test_it_is_read_back_as_it_prints(rate):
    if "<" in repr(rate):
        with pytest.raises(gd.ParseError):
            gd.parse(repr(rate))
    else:
        assert gd.parse(repr(rate)) == rate
        assert hash(gd.parse(repr(rate))) == hash(rate)


@pytest.mark.parametrize("rate", VALUES)
def test_it_obeys_strict_promotion(rate):
    with jax.numpy_dtype_promotion("strict"):
        assert rate(jnp.int32(7)).dtype == jnp.float32


NO_STEPS = {
    "linear": (gd.linear_schedule(0.3, 0.1, 0, 2), [0.3] * 4),
    "polynomial": (gd.polynomial_schedule(0.3, 0.1, 2, 0), [0.3] * 4),
    "exponential": (gd.exponential_decay(0.3, 0, 0.5, end_value=0.5), [0.3] * 4),
    "exponential of 0": (gd.exponential_decay(0.3, 2, 0.0, end_value=0.5), [0.3] * 4),
    "warmup": (gd.warmup_constant_schedule(0.1, 0.3, 0), [0.1] * 4),
    "warmup cosine decay": (gd.warmup_cosine_decay_schedule(0.0, 0.3, 0, 2, 0.1), [0.3, 0.2, 0.1, 0.1]),
    "cosine after warmup": (gd.warmup_cosine(0.3, 2, 2, 0.1), [0.0, 0.15, 0.1, 0.1]),
    "warmup cosine": (gd.warmup_cosine(0.3, 0, 0, 0.1), [0.1] * 4),
    "warmup exponential": (gd.warmup_exponential_decay_schedule(0.0, 0.4, 0, 1, 0.5), [0.4, 0.2, 0.1, 0.05]),
    "only stable": (gd.warmup_stable_decay(0.3, 0, 2, 0, 0.1), [0.3, 0.3, 0.1, 0.1]),
    "only decay": (gd.warmup_stable_decay(0.4, 0, 0, 2), [0.4, 0.2, 0.0, 0.0]),
    "joined": (gd.join_schedules([gd.constant(0.1), gd.constant(0.2), gd.constant(0.3)], [2, 2]), [0.1, 0.1, 0.3, 0.3]),
    "joined at 0": (gd.join_schedules([gd.constant(0.1), gd.linear_schedule(0, 3, 3)], [0]), [0, 1, 2, 3]),
    "joined, no line": (gd.join_schedules([gd.constant(0.1), gd.linear_schedule(1, 0, 0)], [2]), [0.1, 0.1, 1.0, 1.0]),
    "no rise": (gd.linear_onecycle_schedule(4, 0.8, 0.0, 0.5, 4, 2), [0.8, 0.5, 0.2, 0.15]),
    "no end": (gd.linear_onecycle_schedule(2, 0.8, 0.5, 1.0, 4, 2), [0.2, 0.8, 0.1, 0.1]),
    "levels at 0": (gd.piecewise_interpolate_schedule("linear", 0.4, {0: 0.5, 2: 0}), [0.2, 0.1, 0.0, 0.0]),
    "ademamix": (gd.ademamix_alpha(5, 0), [5.0] * 4),
    "a peak of 0": (gd.warmup_cosine_decay_schedule(0.2, 0.0, 1, 3, 0.2), [0.2, 0.0, 0.0, 0.0]),
    "ours, a peak of 0": (gd.warmup_cosine(0.0, 1, 3, 0.0), [0.0] * 4),
}
"""Schedules with a part of no steps: Optax's stay where they start, ours are over at once."""


@pytest.mark.parametrize("name", NO_STEPS)
def test_a_part_of_no_steps_has_the_value_that_its_docstring_says(name):
    rate, expected = NO_STEPS[name]
    np.testing.assert_allclose([rate(t) for t in range(4)], expected, rtol=1e-6, atol=1e-7)
    traced = jax.jit(lambda rate: jax.vmap(rate)(jnp.arange(4)))(rate)
    np.testing.assert_allclose(traced, expected, rtol=1e-6, atol=1e-7)
    slopes = jax.jacrev(lambda rate: jax.vmap(rate)(jnp.arange(4)))(rate)
    assert all(jnp.isfinite(slope).all() for slope in jax.tree.leaves(slopes))


@pytest.mark.parametrize("rate", VALUES)
def test_counts_of_billions_are_taken(rate):
    assert jnp.isfinite(rate(2**31 - 1))
    assert jnp.isfinite(rate(3_000_000_000))


def test_counts_of_many_millions_are_told_apart():
    rate = gd.warmup_cosine(1.0, 1_000, 1e7)
    assert rate(5_000_000) > rate(5_001_000) > rate(10_000_000) == 0.0
    steps = jnp.arange(16_000_000, 16_000_100)
    late = gd.join_schedules([gd.constant(2.0), gd.linear_schedule(1.0, 0.0, 100)], [16_000_000])
    np.testing.assert_allclose(late(steps), 1 - np.arange(100) / 100, rtol=1e-5)
    dropped = gd.piecewise_constant_schedule(1.0, {16_000_050: 0.5, 2**40: 0.0})
    np.testing.assert_array_equal(dropped(steps), np.where(np.arange(100) < 50, 1.0, 0.5))


def test_join_gives_every_part_its_own_steps():
    table = jnp.array([3.0, 1.0, 4.0, 1.0, 5.0])
    rate = gd.join_schedules([lambda t: t, lambda t: table[t], gd.constant(7.0)], [2, 5])
    np.testing.assert_allclose([rate(t) for t in range(7)], [0, 1, 3, 1, 4, 7, 7])
    np.testing.assert_allclose(jax.jit(jax.vmap(rate))(jnp.arange(7)), [0, 1, 3, 1, 4, 7, 7])
    between_steps = gd.join_schedules([gd.constant(0.0), gd.linear_schedule(0.0, 1.0, 10)], [2.5])
    np.testing.assert_allclose([between_steps(t) for t in range(5)], [0, 0, 0, 0.05, 0.15], rtol=1e-6)
    moved = jax.grad(lambda rate: rate(4))(between_steps)
    np.testing.assert_allclose(moved.boundaries[0], -0.1, rtol=1e-6)
    arrays = gd.join_schedules([gd.constant(0.0), gd.constant(1.0)], jnp.array([3]))
    assert (arrays(2), arrays(3)) == (0.0, 1.0)


def test_a_run_learns_its_own_schedule():
    """The derivative of what is left after a run, by a number deep in the schedule, is that of differences."""
    with jax.enable_x64(True):
        rate = gd.join_schedules([gd.linear_schedule(0.0, 0.2, 3), gd.exponential_decay(0.2, 4, 0.5)], [3])

        def left(tx):
            def step(carry, _):
                params, state = carry
                updates, state = tx.update(params, state, params)
                return (gd.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (jnp.float64(1.0), tx.init(jnp.float64(1.0))), length=12)[0][0]

        tx = gd.sgd(rate)
        slope = jax.grad(left)(tx).decay_rate
        differences = (left(tx.replace(decay_rate=0.5 + 1e-6)) - left(tx.replace(decay_rate=0.5 - 1e-6))) / 2e-6
        np.testing.assert_allclose(slope, differences, rtol=1e-7)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: gd.polynomial_schedule(1, 0, -1, 5), r"polynomial_schedule: power must lie in \[0, inf\)"),
        (lambda: gd.linear_schedule(math.nan, 0, 1), "linear_schedule: init_value must be a number, got nan"),
        (lambda: gd.constant_schedule(math.inf), r"constant_schedule: value must lie in \(-inf, inf\)"),
        (lambda: gd.exponential_decay(1, 5, -1), r"exponential_decay: decay_rate must lie in \[0, inf\), got -1.0"),
        (lambda: gd.cosine_decay_schedule(1, 0), r"cosine_decay_schedule: decay_steps must lie in \(0, inf\)"),
        (lambda: gd.cosine_onecycle_schedule(0, 1), r"cosine_onecycle_schedule: transition_steps must lie in \(0, inf"),
        (
            lambda: gd.linear_onecycle_schedule(-1, 1),
            r"linear_onecycle_schedule: transition_steps must lie in \(0, inf",
        ),
        (
            lambda: gd.warmup_cosine_decay_schedule(0, 1, 5, 5),
            r"warmup_cosine_decay_schedule: warmup_steps must be less than decay_steps \(5.0\), got 5.0",
        ),
        (lambda: gd.piecewise_constant_schedule(1, {5: -1}), r"boundaries_and_scales must lie in \[0, inf\), got -1.0"),
        (
            lambda: gd.piecewise_constant_schedule(1, {0.5: 1}),
            r"piecewise_constant_schedule: boundaries must be integers in \[0, inf\), got 0.5",
        ),
        (
            lambda: gd.piecewise_interpolate_schedule("linear", 1, {-5: 1}),
            "piecewise_interpolate_schedule: boundaries must be .* got -5",
        ),
        (
            lambda: gd.piecewise_interpolate_schedule("cubic", 1, {5: 1}),
            "piecewise_interpolate_schedule: interpolate_type must be 'linear' or 'cosine', got 'cubic'",
        ),
        (
            lambda: gd.piecewise_interpolate_schedule(None, 1, {}),
            "piecewise_interpolate_schedule: interpolate_type must be 'linear' or 'cosine', got None",
        ),
        (
            lambda: gd.linear_onecycle_schedule(10, 1, 0.9, 0.5),
            r"linear_onecycle_schedule: pct_start must be at most pct_final \(0.5\), got 0.9",
        ),
        (lambda: gd.cosine_onecycle_schedule(10, 1, 1.5), r"cosine_onecycle_schedule: pct_start must lie in \[0, 1\]"),
        (lambda: gd.cosine_onecycle_schedule(10, 1, div_factor=0), r"div_factor must lie in \(0, inf\), got 0.0"),
        (lambda: gd.sgdr_schedule([]), "sgdr_schedule: cosine_kwargs must be a list of dicts"),
        (
            lambda: gd.sgdr_schedule([{**CYCLE, "decay_steps": 1}]),
            r"warmup_cosine_decay_schedule: warmup_steps must be less than decay_steps \(1.0\), got 2.0",
        ),
        (
            lambda: gd.warmup_cosine(0.1, 5, 2),
            r"warmup_cosine: warmup_steps must be at most total_steps \(2.0\), got 5",
        ),
        (lambda: gd.warmup_cosine(0.1, 1, 2, 0.5), r"warmup_cosine: floor must be at most peak \(0.1\), got 0.5"),
        (
            lambda: gd.join_schedules([gd.constant(1)], [5]),
            "join_schedules: boundaries must be one fewer than schedules, got 1 boundaries and 1 schedules",
        ),
        (
            lambda: gd.join_schedules([gd.constant(1)] * 3, [5, 4]),
            r"join_schedules: each boundary must be at most the next \(4.0\), got 5.0",
        ),
        (
            lambda: gd.inverse_sqrt(0.1, 0),
            "inverse_sqrt: timescale must be a number above 0 if warmup_steps is 0",
        ),
        (lambda: gd.inverse_sqrt(0.1, 5, 0), r"inverse_sqrt: timescale must lie in \(0, inf\), got 0.0"),
        (lambda: gd.warm_restarts(1, 0), r"warm_restarts: cycle_steps must lie in \(0, inf\), got 0.0"),
        (lambda: gd.warm_restarts(1, 5, 0.5), r"warm_restarts: growth must lie in \[1, inf\), got 0.5"),
        (lambda: gd.warm_restarts(1, 5, shrink=2), r"warm_restarts: shrink must lie in \(0, 1\], got 2.0"),
        (lambda: gd.warm_restarts(1, 5, floor=2), r"warm_restarts: floor must be at most peak \(1.0\), got 2.0"),
        (lambda: gd.scaled(0.1, math.inf), r"scaled: factor must lie in \(-inf, inf\), got inf"),
    ],
)
def test_bad_numbers_are_refused_by_name(make, error):
    with pytest.raises(ValueError, match=error):
        make()


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(
        TypeError, match="warmup_cosine_decay_schedule: no parameter 'peak_val', did you mean 'peak_value'"
    ):
        gd.sgdr_schedule([{**CYCLE, "peak_val": 1.0}])
    with pytest.raises(TypeError, match="scaled: schedule must be a number or a schedule, got sgd"):
        gd.scaled(gd.sgd(0.1), 0.5)
    with pytest.raises(TypeError, match=r"join_schedules: schedules must be a schedule, got 0\.5"):
        gd.join_schedules([gd.constant(1.0), 0.5], [5])


def test_a_users_own_schedule_is_a_value():
    @gd.schedule
    def inverse(start: gd.Scalar, every: gd.Scalar = 10):
        return lambda count: start / (1 + count / every)

    tx = gd.sgd(inverse(0.5))
    assert repr(tx.learning_rate) == "inverse(start=0.5, every=10.0)"
    assert gd.parse(repr(tx), inverse) == tx
    assert tx.replace(start=1.0).start == 1.0
    state = tx.init(1.0)
    for expected in (0.5, 0.5 / 1.1):
        updates, state = tx.update(1.0, state)
        np.testing.assert_allclose(updates, -expected, rtol=1e-6)
