"""Every transform against its paper, written out line by line in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from tests.samples import tree

STEPS = 6
B1, B2, EPS, ROOT, RATE, DECAY, LAMBDA = 0.8, 0.95, 1e-3, 1e-4, 0.1, 0.7, 0.03


def sgd_momentum(p, gs):
    t = 0
    for g in gs:
        t = g + DECAY * t
        p = p - RATE * t
    return p


def sgd_nesterov(p, gs):
    t = 0
    for g in gs:
        t = g + DECAY * t
        p = p - RATE * (g + DECAY * t)
    return p


def adam(p, gs):
    m = v = 0
    for step, g in enumerate(gs, 1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g**2
        m_hat, v_hat = m / (1 - B1**step), v / (1 - B2**step)
        p = p - RATE * m_hat / (np.sqrt(v_hat + ROOT) + EPS)
    return p


def adamw(p, gs):
    m = v = 0
    for step, g in enumerate(gs, 1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g**2
        m_hat, v_hat = m / (1 - B1**step), v / (1 - B2**step)
        p = p - RATE * (m_hat / (np.sqrt(v_hat) + EPS) + LAMBDA * p)
    return p


def nadam(p, gs):
    m = v = 0
    for step, g in enumerate(gs, 1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g**2
        m_hat = B1 * m / (1 - B1 ** (step + 1)) + (1 - B1) * g / (1 - B1**step)
        p = p - RATE * m_hat / (np.sqrt(v / (1 - B2**step)) + EPS)
    return p


def rmsprop(p, gs):
    v = 0.5
    for g in gs:
        v = DECAY * v + (1 - DECAY) * g**2
        p = p - RATE * g / np.sqrt(v + EPS)
    return p


def rmsprop_corrected(p, gs):
    v = 0
    for step, g in enumerate(gs, 1):
        v = DECAY * v + (1 - DECAY) * g**2
        p = p - RATE * g / (np.sqrt(v / (1 - DECAY**step)) + EPS)
    return p


def rmsprop_momentum(p, gs):
    v = t = 0
    for g in gs:
        v = DECAY * v + (1 - DECAY) * g**2
        t = RATE * g / np.sqrt(v + EPS) + B1 * t
        p = p - t
    return p


def rmsprop_centered(p, gs):
    m = v = 0
    for g in gs:
        m = DECAY * m + (1 - DECAY) * g
        v = DECAY * v + (1 - DECAY) * g**2
        p = p - RATE * g / np.sqrt(v - m**2 + EPS)
    return p


def clipped(p, gs):
    for g in gs:
        p = p - RATE * np.clip(g, -0.4, 0.4)
    return p


def scheduled(p, gs):
    for step, g in enumerate(gs):
        rate = step / 2 if step < 2 else 0.1 + (1 - 0.1) * (1 + np.cos(np.pi * (step - 2) / 3)) / 2
        p = p - (rate if step < 5 else 0.1) * g
    return p


CASES = {
    "momentum": (sgd_momentum, gd.sgd(RATE, DECAY)),
    "nesterov": (sgd_nesterov, gd.sgd(RATE, DECAY, nesterov=True)),
    "adam": (adam, gd.adam(RATE, B1, B2, EPS, ROOT)),
    "adamw": (adamw, gd.adamw(RATE, B1, B2, EPS, weight_decay=LAMBDA)),
    "nadam": (nadam, gd.adam(RATE, B1, B2, EPS, nesterov=True)),
    "rmsprop": (rmsprop, gd.rmsprop(RATE, DECAY, EPS, initial_scale=0.5)),
    "rmsprop corrected": (rmsprop_corrected, gd.rmsprop(RATE, DECAY, EPS, eps_in_sqrt=False, bias_correction=True)),
    "rmsprop with momentum": (rmsprop_momentum, gd.rmsprop(RATE, DECAY, EPS, momentum=B1)),
    "rmsprop centered": (rmsprop_centered, gd.rmsprop(RATE, DECAY, EPS, centered=True)),
    "clip": (clipped, gd.chain(gd.clip(0.4), gd.sgd(RATE))),
    "schedule": (scheduled, gd.sgd(gd.warmup_cosine(1.0, 2, 5, floor=0.1))),
}


def descend(tx, dtype):
    params, state = tree(dtype), None
    for step in range(STEPS):
        state = tx.init(params) if state is None else state
        updates, state = tx.update(tree(dtype, seed=1 + step), state, params)
        params = gd.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("case", CASES)
def test_parameters_match_the_paper(case):
    reference, tx = CASES[case]
    with jax.enable_x64(True):
        start, gradients = tree(jnp.float64), [tree(jnp.float64, seed=1 + step) for step in range(STEPS)]
        exact = descend(tx, jnp.float64)
        single = descend(tx, jnp.float32)
        for leaf in start:
            expected = reference(np.asarray(start[leaf]), [np.asarray(g[leaf]) for g in gradients])
            np.testing.assert_allclose(exact[leaf], expected, rtol=1e-12)
            np.testing.assert_allclose(single[leaf], expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("largest", [0.1, 1e6])
def test_clip_by_global_norm_bounds_the_norm(largest):
    with jax.enable_x64(True):
        g = tree(jnp.float64)
        updates, _ = gd.clip_by_global_norm(largest).update(g, ())
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in g.values()))
        for leaf in g:
            np.testing.assert_allclose(updates[leaf], np.asarray(g[leaf]) * min(1.0, largest / norm), rtol=1e-12)


def test_the_bias_correction_is_exact_where_it_is_small():
    g = {"w": jnp.asarray([1e-3, 2.0], jnp.float32)}
    for b2 in (0.999, 0.99999):
        updates, _ = gd.scale_by_adam(b2=b2, eps=0.0).update(g, gd.scale_by_adam().init(g))
        np.testing.assert_allclose(updates["w"], [1.0, 1.0], rtol=3e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_norms_are_summed_in_float32(dtype):
    g = jnp.full((3000,), 1.0, dtype)
    np.testing.assert_allclose(gd.global_norm(g), np.sqrt(3000.0), rtol=1e-6)
    np.testing.assert_allclose(gd.global_norm(jnp.full((4,), 300.0, jnp.float16)), 600.0, rtol=1e-6)


def test_zero_gradients_are_clipped_to_zero():
    g = {"w": jnp.zeros(3)}
    assert not gd.clip_by_global_norm(1.0).update(g, ())[0]["w"].any()


def test_clipping_propagates_nan():
    g = {"w": jnp.asarray([jnp.nan, 1.0])}
    assert jnp.isnan(gd.clip_by_global_norm(1.0).update(g, ())[0]["w"]).all()


def test_a_bfloat16_accumulator_is_rounded_once_a_step():
    tx, t = gd.trace(0.9, accumulator_dtype=jnp.bfloat16), np.zeros((4, 3), jnp.bfloat16)
    state = tx.init(tree())
    for step in range(4):
        g = tree(seed=step)
        updates, state = tx.update(g, state)
        exact = np.asarray(g["w"]) + np.float32(0.9) * t.astype(np.float32)
        t = exact.astype(jnp.bfloat16)
        np.testing.assert_allclose(updates["w"], exact, rtol=1e-6)
        np.testing.assert_array_equal(state.trace["w"], t)
