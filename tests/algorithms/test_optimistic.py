"""Optimistic descent against the papers, and in the game that it was made for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, run, tree

B1, B2, EPS, RATE = 0.8, 0.95, 1e-3, 0.1


def ogda(gradients, alpha, beta):
    """Mokhtari et al. 2020: the gradient and its last change, none at first."""
    before = gradients[0]
    for g in gradients:
        yield -RATE * ((alpha + beta) * g - beta * before)
        before = g


def optimistic_adam(gradients, optimism):
    """Daskalakis et al. 2018, algorithm 1, the step before the first taken for the first."""
    m = v = 0.0
    before = None
    for t, g in enumerate(gradients, 1):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        u = m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPS)
        before = u if before is None else before
        yield -RATE * u - optimism * (u - before)
        before = u


def compared(tx, expected):
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    with jax.enable_x64(True):
        state = tx.init(jnp.zeros(3))
        for g, update in zip(gradients, expected(gradients), strict=True):
            ours, state = tx.update(jnp.asarray(g), state)
            np.testing.assert_allclose(ours, update, rtol=1e-11)


def test_descent_is_the_papers():
    compared(gd.optimistic_gradient_descent(RATE, 1.5, 0.7), lambda gs: ogda(gs, 1.5, 0.7))


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
def test_adam_is_the_papers(tx, optimism):
    compared(tx, lambda gs: optimistic_adam(gs, optimism))


@pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated")
def test_the_first_adam_is_optaxs():
    ours, theirs = (run(optax.with_extra_args_support(lib.optimistic_adam(0.1, 0.3)), tree()) for lib in (gd, optax))
    assert_close(ours, theirs, rtol=5e-5, atol=1e-6)


def test_a_schedule_is_refused_where_none_can_be_followed():
    with pytest.raises(TypeError, match=r"^optimistic_adam: learning_rate must be a number"):
        gd.optimistic_adam(gd.constant(0.1))


def test_the_game_that_descent_circles_in_is_solved():
    """Of x y the least over x and the most over y: plain descent leaves (0, 0), optimistic descent goes there."""

    def end(tx):
        def step(carry, _):
            (x, y), state = carry
            updates, state = tx.update((y, -x), state)
            return (gd.apply_updates((x, y), updates), state), None

        start = (jnp.float32(1.0), jnp.float32(1.0))
        return jax.lax.scan(step, (start, tx.init(start)), length=400)[0][0]

    assert np.linalg.norm(end(gd.sgd(0.2))) > 100
    assert np.linalg.norm(end(gd.optimistic_gradient_descent(0.2))) < 1e-3
