"""Optimistic descent against the papers, and on a bilinear game."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, run, tree

B1, B2, EPS, RATE = 0.8, 0.95, 1e-3, 0.1


def ogda(gradients, alpha, beta):
    """Yield updates by Mokhtari et al. 2020: the gradient and its last change, which is zero at first."""
    before = gradients[0]
    for g in gradients:
        yield -RATE * ((alpha + beta) * g - beta * before)
        before = g


def optimistic_adam(gradients, optimism):
    """Yield updates by Daskalakis et al. 2018, algorithm 1; the first step counts as its own predecessor."""
    m = v = 0.0
    before = None
    for t, g in enumerate(gradients, 1):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        u = m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPS)
        before = u if before is None else before
        yield -RATE * u - optimism * (u - before)
        before = u


def assert_updates_match(tx, expected):
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    with jax.enable_x64(True):
        state = tx.init(jnp.zeros(3))
        for g, update in zip(gradients, expected(gradients), strict=True):
            ours, state = tx.update(jnp.asarray(g), state)
            np.testing.assert_allclose(ours, update, rtol=1e-11)


def test_optimistic_gradient_descent_matches_the_paper():
    assert_updates_match(gd.optimistic_gradient_descent(RATE, 1.5, 0.7), lambda gs: ogda(gs, 1.5, 0.7))


@pytest.mark.parametrize(
    ("tx", "optimism"),
    [
        (gd.optimistic_adam(RATE, b1=B1, b2=B2, eps=EPS, nesterov=False), RATE),
        (gd.optimistic_adam(RATE, 0.3, B1, B2, EPS, nesterov=False), 0.3),
        (gd.optimistic_adam_v2(RATE, b1=B1, b2=B2, eps=EPS, nesterov=False), RATE),
        (gd.optimistic_adam_v2(RATE, beta=3.0, b1=B1, b2=B2, eps=EPS, nesterov=False), 0.3),
    ],
    ids=["one rate", "two rates", "v2", "v2, two rates"],
)
def test_optimistic_adam_matches_the_paper(tx, optimism):
    assert_updates_match(tx, lambda gs: optimistic_adam(gs, optimism))


@pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated")
def test_optimistic_adam_matches_optax():
    ours, theirs = (run(optax.with_extra_args_support(lib.optimistic_adam(0.1, 0.3)), tree()) for lib in (gd, optax))
    assert_close(ours, theirs, rtol=5e-5, atol=1e-6)


def test_optimistic_adam_refuses_a_schedule():
    with pytest.raises(TypeError, match=r"^optimistic_adam: learning_rate must be a number"):
        gd.optimistic_adam(gd.constant(0.1))


def test_optimistic_descent_solves_a_bilinear_game():
    """For the minimum over x and the maximum over y of x y, plain descent diverges and optimistic descent converges."""

    def final_point(tx):
        def step(carry, _):
            (x, y), state = carry
            updates, state = tx.update((y, -x), state)
            return (gd.apply_updates((x, y), updates), state), None

        start = (jnp.float32(1.0), jnp.float32(1.0))
        return jax.lax.scan(step, (start, tx.init(start)), length=400)[0][0]

    assert np.linalg.norm(final_point(gd.sgd(0.2))) > 100
    assert np.linalg.norm(final_point(gd.optimistic_gradient_descent(0.2))) < 1e-3
