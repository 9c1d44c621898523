"""Every transform written in gdjax, for gradients of every size: float32 against float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from tests.samples import sample

STEPS = 4
SIGNS = {"b": np.array([1.0, -1.0, 1.0]), "w": np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])}
ORDINARY = {"b": np.array([0.3, -1.2, 0.7]), "w": np.array([[0.5, -0.2], [1.5, 0.4], [-0.9, 0.8]])}
PARAMS = {"b": np.array([0.5, 1.0, -2.0]), "w": np.array([[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6]])}


def of_sizes(*sizes):
    """Return gradients of one size at each step; `None` stands for ordinary gradients."""
    steps = [ORDINARY if size is None else {name: size * signs for name, signs in SIGNS.items()} for size in sizes]
    return {name: np.stack([step[name] for step in steps]) for name in SIGNS}


EXACT = {
    "0": of_sizes(0, 0, 0, 0),
    "1e-30": of_sizes(1e-30, 1e-30, 1e-30, 1e-30),
    "1e-20": of_sizes(1e-20, 1e-20, -1e-20, 1e-20),
    "ordinary": of_sizes(None, None, None, None),
    "alternating": of_sizes(1, -1, 1, -1),
    "1e19": of_sizes(1e19, 1e19, 1e19, 1e19),
    "alternating 1e19": of_sizes(1e19, -1e19, 1e19, -1e19),
    "1e19 once": of_sizes(None, 1e19, None, None),
    "1e30": of_sizes(1e30, 1e30, 1e30, 1e30),
    "alternating 3e38": of_sizes(3e38, -3e38, 3e38, -3e38),
    "1e30 once": of_sizes(None, 1e30, None, None),
    "3e38 at first": of_sizes(3e38, None, None, None),
}
"""Gradients for which float32 can match the steps of float64."""
BAD = {
    (bad, at): of_sizes(*(bad if t == at else None for t in range(STEPS))) for bad in (np.nan, np.inf) for at in (0, 2)
}
"""Gradients that are not finite at one step."""
SCENARIOS = {**EXACT, **BAD}

ELEMENTWISE = [
    *("scale_by_adam", "scale_by_amsgrad", "scale_by_adamax", "scale_by_radam", "scale_by_belief", "scale_by_yogi"),
    *("scale_by_adan", "scale_by_ademamix", "scale_by_laprop", "scale_by_adopt", "scale_by_rms", "scale_by_stddev"),
    *("scale_by_rss", "scale_by_adadelta", "scale_by_lion", "scale_by_sign"),
]
REDUCING = ["scale_by_adam_mini", "scale_by_factored_rms", "scale_by_came", "prodigy", "dadapt_adamw", "cautious"]
NORMS = ["scale_by_novograd", "scale_by_dog", "scale_by_dowg", "mars", "scale_by_trust_ratio", "scale_by_muon"]
MATRIX = ["scale_by_shampoo", "scale_by_soap", "scale_by_psgd_kron"]
SPECIAL = {
    "nadam": gd.scale_by_adam(nesterov=True),
    "corrected rms": gd.scale_by_rms(eps_in_sqrt=False, bias_correction=True),
    "factored": gd.scale_by_factored_rms(min_dim_size_to_factor=2),
    "scale_by_dog": gd.scale_by_dog(("distance", 0.5)),
    "scale_by_shampoo": gd.scale_by_shampoo(every=1),
}
DIFFERENT_FROM_FLOAT64 = {
    "scale_by_psgd_kron": SCENARIOS,  # random numbers differ by dtype
    "scale_by_shampoo": SCENARIOS,  # its factors are rank-deficient: rounding decides
    "scale_by_soap": SCENARIOS,
    "scale_by_adopt": {"3e38 at first"},  # all later steps are 0 compared with it
    "scale_by_radam": {"1e30", "alternating 3e38", "1e30 once", "3e38 at first"},  # its first steps are plain gradients
    "prodigy": {"1e-30"},  # the rate times the gradient is subnormal
    "dadapt_adamw": {"1e-30"},
}
"""Scenarios in which float32 is finite but differs from float64."""
BOUNDED = {"scale_by_sign", "scale_by_lion"}
"""Transforms whose updates are equal for all large gradients, infinite ones too."""


GROUPS = [[*ELEMENTWISE, "nadam", "corrected rms"], [*REDUCING, "factored", *NORMS], MATRIX]
"""Transforms that are compiled together."""
NAMES = [name for group in GROUPS for name in group]


def transform_of(name):
    return SPECIAL[name] if name in SPECIAL else sample(name)


def arrays(trees, dtype):
    """Round trees to float32 and convert them to a dtype."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float32), dtype), trees)


@functools.cache
def program(names):
    """Return a compiled function that takes all steps of all scenarios with these transforms."""

    def descended(grads, states, params):
        def step(states, g):
            both = {name: transform_of(name).update(g, states[name], params) for name in names}
            return {name: state for name, (_, state) in both.items()}, {name: u for name, (u, _) in both.items()}

        return jax.lax.scan(step, states, grads)

    return jax.jit(jax.vmap(descended, in_axes=(0, None, None)))


def all_steps(names, dtype, states=None):
    """Return the states after all scenarios, and the updates of every step, by name."""
    params = arrays(PARAMS, dtype)
    grads = arrays(jax.tree.map(lambda *of: np.stack(of), *SCENARIOS.values()), dtype)
    states = {name: transform_of(name).init(params) for name in names} if states is None else states
    return jax.tree.map(np.asarray, program(names)(grads, states, params))


@functools.cache
def outcomes(names, wide):
    with jax.enable_x64(wide):
        return all_steps(names, jnp.float64 if wide else jnp.float32)


def outcome(name, wide=False):
    """Return the states after all scenarios, and the updates of every step by scenario."""
    states, updates = outcomes(_group(name), wide)
    return states[name], {case: {k: u[i] for k, u in updates[name].items()} for i, case in enumerate(SCENARIOS)}


def _group(name):
    return next(tuple(group) for group in GROUPS if name in group)


@pytest.mark.parametrize("name", NAMES)
def test_steps_match_float64_for_finite_gradients_of_every_size(name):
    state, ours = outcome(name)
    for i, case in enumerate(EXACT):
        floats = [x[i] for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
        chex.assert_tree_all_finite({case: floats})
        for leaf in SIGNS:
            assert np.isfinite(ours[case][leaf]).all(), case
            if case not in DIFFERENT_FROM_FLOAT64.get(name, ()):
                expected = outcome(name, wide=True)[1][case][leaf]
                atol = 1e-6 * np.abs(expected).max()
                np.testing.assert_allclose(ours[case][leaf], expected, rtol=1e-4, atol=atol, err_msg=case)


@pytest.mark.parametrize("name", NAMES)
def test_nonfinite_gradients_give_nonfinite_updates(name):
    _, ours = outcome(name)
    for case in BAD:
        bad, at = case
        if np.isnan(bad):
            assert all(np.isnan(ours[case][leaf][at]).all() for leaf in SIGNS), case
        elif name not in BOUNDED:
            assert not all(np.isfinite(ours[case][leaf][at:]).all() for leaf in SIGNS), case


@functools.cache
def with_full_counters(names):
    """Repeat the scenarios from the states after ordinary steps, with all counters at the largest integer."""
    states = {name: jax.tree.map(lambda x: x[ORDINARY_INDEX], outcome(name)[0]) for name in names}
    return all_steps(
        names, jnp.float32, jax.tree.map(lambda x: np.full_like(x, MAX_COUNT) if is_counter(x) else x, states)
    )


ORDINARY_INDEX, MAX_COUNT = list(SCENARIOS).index("ordinary"), np.iinfo(np.int32).max


def is_counter(x):
    return x.dtype == np.int32 and not x.ndim


@pytest.mark.parametrize("name", NAMES)
def test_counters_stay_at_the_largest_integer(name):
    states, updates = with_full_counters(_group(name))
    for x in jax.tree.leaves(jax.tree.map(lambda x: x[ORDINARY_INDEX], states[name])):
        assert not is_counter(x) or x == MAX_COUNT
    ordinary_updates = [u[ORDINARY_INDEX] for u in jax.tree.leaves(updates[name])]
    chex.assert_tree_all_finite(ordinary_updates)
    assert max(np.abs(u).max() for u in ordinary_updates) < 100


LONG = {
    "ema": gd.ema(0.9999),
    "adam": gd.adam(0.1),
    "adagrad": gd.adagrad(0.1),
    "adafactor": gd.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9),
    "schedule_free": gd.schedule_free_adamw(0.1, warmup_steps=100),
}


@pytest.mark.parametrize("tx", [pytest.param(tx, id=name) for name, tx in LONG.items()])
def test_five_thousand_steps_do_not_drift(tx):
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(0.3, 1.0, (5000, *x.shape)) for name, x in SIGNS.items()}

    def descended(dtype):
        grads, params = (
            arrays(jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree), dtype) for tree in (noise, PARAMS)
        )

        @jax.jit
        def all_updates(grads, params):
            return jax.lax.scan(lambda state, g: tx.update(g, state, params)[::-1], tx.init(params), grads)[1]

        return jax.tree.map(lambda u: np.asarray(u).astype(float), all_updates(grads, params))

    with jax.enable_x64(True):
        exact = descended(jnp.float64)
    for dtype, rtol in ((jnp.float32, 1e-4), (jnp.bfloat16, 2.0**-6)):
        for ours, expected in zip(*map(jax.tree.leaves, (descended(dtype), exact)), strict=True):
            np.testing.assert_allclose(ours[-1], expected[-1], rtol=rtol, atol=rtol * np.abs(expected).max())
            np.testing.assert_allclose(ours, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def test_ema_of_ones_is_one_at_every_step():
    tx = gd.ema(0.9999)
    _, means = jax.jit(lambda state, ones: jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], state, ones))(
        tx.init(jnp.zeros(())), jnp.ones(5000)
    )
    np.testing.assert_allclose(means, 1, rtol=1e-5)


def test_cautious_weight_decay_compares_signs_at_any_size():
    tx = gd.add_cautious_weight_decay(0.5)
    for size in (1e-30, 1e-20, 1.0, 1e30):
        updates, _ = tx.update(jnp.array([size, -size]), tx.init(jnp.ones(2)), jnp.full(2, size))
        np.testing.assert_allclose(updates, [1.5 * size, -size], rtol=1e-6)
