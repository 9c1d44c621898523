"""Simplified AdEMAMix against the paper, and for gradients that make Optax's NaN."""

import jax
import jax.numpy as jnp
import numpy as np

import gdjax as gd

B1, B2, ALPHA, EPS, RATE, DECAY = 0.9, 0.8, 0.5, 1e-3, 0.1, 0.03


def test_parameters_match_the_paper():
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    with jax.enable_x64(True):
        tx = gd.simplified_ademamix(RATE, B1, B2, ALPHA, EPS, weight_decay=DECAY)
        p, m, n = np.ones(3), 0.0, 0.0
        params, state = jnp.ones(3), tx.init(jnp.ones(3))
        for t, g in enumerate(gradients, 1):
            m, n = B1 * m + g, B2 * n + (1 - B2) * g**2
            p = p - RATE * ((m + ALPHA * g) / (np.sqrt(n / (1 - B2**t)) + EPS) + DECAY * p)
            updates, state = tx.update(jnp.asarray(g), state, params)
            params = gd.apply_updates(params, updates)
        np.testing.assert_allclose(params, p, rtol=1e-12)


def test_updates_stay_finite_when_squares_overflow():
    tx, g = gd.scale_by_simplified_ademamix(), jnp.full(2, 1e30)
    state = tx.init(g)
    for _ in range(3):
        updates, state = tx.update(g, state)
        assert np.isfinite(updates).all()
