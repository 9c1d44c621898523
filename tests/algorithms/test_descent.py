"""Every optimizer reaches the minimum of a quadratic and of Rosenbrock's function, and learns digits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from gdjax import exports, problems
from tests.descents import DESCENTS
from tests.loops import descended

STEPS, EPOCHS, BATCH = 100_000, 20, 64


def quadratic():
    """A quadratic of condition number 1,000 in 20 rotated dimensions, as one 4 x 5 leaf for matrix methods."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    hessian = basis * np.geomspace(1e-3, 1.0, 20) @ basis.T
    minimum, start = rng.normal(size=(2, 4, 5))

    def f(x):
        offset = (x - minimum).ravel()
        return 0.5 * offset @ hessian @ offset

    return f, start


def rosenbrock():
    """One leaf of two numbers: optimizers whose steps are smaller than the leaf never carry one number past 0."""
    return lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, np.array([-1.2, 1.0])


digits = problems.digits(64)


def optimizer(name, problem, steps):
    row = DESCENTS[name]
    return row.optimizer(row.course(getattr(row, problem), steps))


@partial(jax.jit, static_argnames="f")
def final_loss_ratio(tx, f, start):
    """Return the final loss divided by the initial loss; the minimum is 0."""

    def step(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(f)(x)
        updates, state = tx.update(grads, state, x, value=value, grad=grads)
        return (gd.apply_updates(x, updates), state), None

    (x, state), _ = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)
    return f(gd.eval_params(tx, state, x)) / f(start)


@jax.jit
def accuracy(tx, params, keys, train, held_out):
    """Return the accuracy on held-out data after one epoch per key."""
    params = descended(digits.loss, tx, params, train, keys, size=BATCH)
    return digits.metrics["accuracy"](params, held_out)


def test_every_optimizer_has_a_row():
    homes = {name: home for name, home in exports.HOME.items() if home.startswith(("algorithms.", "wrappers."))}
    takes_rate = {name for name in homes if "learning_rate" in getattr(getattr(gd, name), "slots", {})}
    names = takes_rate - {"scale_by_rprop", "schedule_free"}
    assert names == DESCENTS.keys(), f"in tests/descents.py, add or remove rows of {names ^ DESCENTS.keys()}"


@pytest.mark.long
@pytest.mark.parametrize("problem", [quadratic, rosenbrock])
@pytest.mark.parametrize("name", DESCENTS)
def test_every_optimizer_reaches_the_optimum(name, problem):
    f, start = problem()
    with jax.enable_x64(True):
        assert final_loss_ratio(optimizer(name, problem.__name__, STEPS), f, jnp.asarray(start)) <= 1e-12


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", DESCENTS)
def test_every_optimizer_learns_digits(name, dtype):
    weights, order = jax.random.split(jax.random.key(0))
    params = jax.tree.map(lambda p: p.astype(dtype), digits.init(weights))
    tx = optimizer(name, "digits", EPOCHS * (len(digits.train[1]) // BATCH))
    keys = jax.random.split(order, EPOCHS)
    assert accuracy(tx, params, keys, digits.train, digits.held_out) >= 0.95
