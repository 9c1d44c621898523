"""Rprop against the paper's iRprop-, and against Optax, whose updates come one step late."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, tree

MINUS, PLUS, LEAST, MOST = 0.4, 1.3, 0.07, 0.15


def irprop_minus(gradients, size=0.1):
    """Return updates by Igel and Hüsken 2003, for one number at a time."""
    before, updates = 0.0, []
    for g in gradients:
        if g * before > 0:
            size = min(size * PLUS, MOST)
        elif g * before < 0:
            size, g = max(size * MINUS, LEAST), 0.0
        updates.append(-np.sign(g) * size)
        before = g
    return updates


def updates_of(tx, gradients, dtype=jnp.float32):
    state = tx.init(jnp.zeros(jnp.shape(gradients[0]), dtype))
    for g in gradients:
        update, state = tx.update(jnp.asarray(g, dtype), state)
        yield update


def test_updates_use_the_gradient_of_the_same_step():
    seen = list(updates_of(gd.rprop(0.1), [1.0, 1.0, 1.0, -1.0, 1.0]))
    np.testing.assert_allclose(seen, [-0.1, -0.12, -0.144, 0.0, -0.072], rtol=1e-6)


def test_updates_match_the_paper():
    gradients = np.random.default_rng(0).normal(size=(40, 7)) + 0.5
    with jax.enable_x64(True):
        ours = list(updates_of(gd.rprop(0.1, MINUS, PLUS, LEAST, MOST), gradients, jnp.float64))
    expected = np.transpose([irprop_minus(column) for column in gradients.T])
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_optax_gives_the_same_updates_one_step_later():
    gradients = np.abs(np.random.default_rng(1).normal(size=(6, 5)))  # no sign changes: both skip a step there
    ours, theirs = (list(updates_of(lib.rprop(0.1), gradients)) for lib in (gd, optax))
    np.testing.assert_allclose(ours[:-1], theirs[1:], rtol=1e-6)
    params = tree()
    assert_close(gd.rprop(0.1).init(params), optax.rprop(0.1).init(params))


def test_signs_of_tiny_gradients_count():
    seen = list(updates_of(gd.rprop(1e-5), [1e-30, 1e-37, -1e-30]))
    np.testing.assert_allclose(seen, [-1e-5, -1.2e-5, 0.0], rtol=1e-6)


def test_real_and_imaginary_parts_have_separate_step_sizes():
    both = list(updates_of(gd.rprop(0.1), [2 + 1j, 1 - 3j], jnp.complex64))
    np.testing.assert_allclose(both, [-0.1 - 0.1j, -0.12 + 0j], rtol=1e-6)


def test_a_nan_gradient_gives_a_nan_update():
    assert np.isnan(list(updates_of(gd.rprop(0.1), [1.0, np.nan]))[-1])


@pytest.mark.parametrize("given", [{"eta_minus": 1.5}, {"eta_plus": 0.9}, {"learning_rate": gd.constant(0.1)}], ids=str)
def test_arguments_out_of_range_are_refused(given):
    with pytest.raises((TypeError, ValueError), match=f"^rprop: {next(iter(given))} must"):
        gd.rprop(**{"learning_rate": 0.1, **given})
