"""Rprop against the paper's iRprop-, and where Optax's is a step late."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, tree

MINUS, PLUS, LEAST, MOST = 0.4, 1.3, 0.07, 0.15


def irprop_minus(gradients, size=0.1):
    """Igel and Hüsken 2003, for one number at a time."""
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


def test_updates_are_this_steps():
    seen = list(updates_of(gd.rprop(0.1), [1.0, 1.0, 1.0, -1.0, 1.0]))
    np.testing.assert_allclose(seen, [-0.1, -0.12, -0.144, 0.0, -0.072], rtol=1e-6)


def test_it_is_the_papers():
    gradients = np.random.default_rng(0).normal(size=(40, 7)) + 0.5
    with jax.enable_x64(True):
        ours = list(updates_of(gd.rprop(0.1, MINUS, PLUS, LEAST, MOST), gradients, jnp.float64))
    expected = np.transpose([irprop_minus(column) for column in gradients.T])
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_optax_is_the_same_one_step_later():
    gradients = np.abs(np.random.default_rng(1).normal(size=(6, 5)))  # no sign turns: there both leave out a step
    ours, theirs = (list(updates_of(lib.rprop(0.1), gradients)) for lib in (gd, optax))
    np.testing.assert_allclose(ours[:-1], theirs[1:], rtol=1e-6)
    params = tree()
    assert_close(gd.rprop(0.1).init(params), optax.rprop(0.1).init(params))


def test_signs_of_tiny_gradients_count():
    seen = list(updates_of(gd.rprop(1e-5), [1e-30, 1e-37, -1e-30]))
    np.testing.assert_allclose(seen, [-1e-5, -1.2e-5, 0.0], rtol=1e-6)


def test_the_parts_of_a_complex_number_have_a_step_size_each():
    both = list(updates_of(gd.rprop(0.1), [2 + 1j, 1 - 3j], jnp.complex64))
    np.testing.assert_allclose(both, [-0.1 - 0.1j, -0.12 + 0j], rtol=1e-6)


def test_a_nan_gradient_is_no_silence():
    assert np.isnan(list(updates_of(gd.rprop(0.1), [1.0, np.nan]))[-1])


@pytest.mark.parametrize("given", [{"eta_minus": 1.5}, {"eta_plus": 0.9}, {"learning_rate": gd.constant(0.1)}], ids=str)
def test_what_is_out_of_range_is_refused(given):
    with pytest.raises((TypeError, ValueError), match=f"^rprop: {next(iter(given))} must"):
        gd.rprop(**{"learning_rate": 0.1, **given})
