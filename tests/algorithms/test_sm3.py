"""SM3 against the paper's SM3-II, on leaves of up to three dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gdjax as gd
from tests.compiling import compilations, counted
from tests.samples import assert_close

B1, EPS, RATE = 0.8, 1e-6, 0.1


def sm3_ii(gradients, b2=1.0):
    """Return the update of every step by Anil et al. 2019, where the covers are the slices of each dimension."""
    shape = gradients[0].shape
    covers, m, updates = [np.zeros(n) for n in shape], 0.0, []
    for g in gradients:
        least = np.full(shape, np.inf)
        for index in np.ndindex(*shape):
            least[index] = min(cover[i] for cover, i in zip(covers, index, strict=True))
        v = b2 * least + (1.0 if b2 == 1.0 else 1 - b2) * g**2
        for dim, cover in enumerate(covers):
            for i in range(shape[dim]):
                cover[i] = np.take(v, i, axis=dim).max()
        m = B1 * m + (1 - B1) * g / np.sqrt(v + EPS)
        updates.append(-RATE * m)
    return updates


@pytest.mark.parametrize("b2", [1.0, 0.9])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)], ids=str)
def test_updates_match_the_paper(shape, b2):
    gradients = np.random.default_rng(0).normal(size=(4, *shape))
    with jax.enable_x64(True):
        tx = gd.chain(gd.scale_by_sm3(B1, b2, EPS), gd.scale(-RATE))
        state = tx.init(jnp.zeros(shape))
        for g, expected in zip(gradients, sm3_ii(gradients, b2), strict=True):
            update, state = tx.update(jnp.asarray(g), state)
            np.testing.assert_allclose(update, expected, rtol=1e-12)


def test_a_scalar_is_updated_like_a_vector_of_one_element():
    tx = gd.sm3(0.01)
    scalar, vector = jnp.asarray(2.0), jnp.asarray([2.0])
    of_scalar, of_vector = tx.init(scalar), optax.sm3(0.01).init(vector)
    for _ in range(3):
        update, of_scalar = tx.update(scalar, of_scalar)
        expected, of_vector = optax.sm3(0.01).update(vector, of_vector)
        assert_close(update, expected[0])
    assert_close(of_scalar[0].mu, of_vector[0].mu)


def test_a_zero_gradient_gives_zero_with_a_finite_derivative_without_epsilon():
    tx = gd.scale_by_sm3(eps=0.0)
    update, derivative = jax.value_and_grad(lambda g: tx.update(g, tx.init(g))[0])(0.0)
    assert update == 0
    assert np.isfinite(derivative)


def test_changing_b2_compiles_nothing():
    stepped = counted(lambda tx, g: tx.update(g, tx.init(g))[0])
    for b2 in (1.0, 0.9):
        tx, g = gd.scale_by_sm3(b2=b2), jnp.full((2, 2), 3.0)
        np.testing.assert_allclose(stepped(tx, g), tx.update(g, tx.init(g))[0], rtol=1e-6)
    assert compilations(stepped) == 1


def test_an_nnx_optimizer_accepts_its_state():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, gd.sm3(0.1), wrt=nnx.Param)
    before = model.kernel[...]
    for _ in range(2):
        optimizer.update(model, nnx.grad(lambda model: jnp.sum(model(jnp.ones((4, 3))) ** 2))(model))
    assert (model.kernel[...] != before).all()
