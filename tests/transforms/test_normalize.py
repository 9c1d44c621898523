"""`normalize` divides the gradient by its norm, and gives 0 for 0."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd


def normalized(gradient):
    tx = gd.normalize()
    return tx.update(gradient, tx.init(gradient))[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16, jnp.complex64])
def test_zero_gives_zero_with_a_finite_derivative(dtype):
    zeros = {"b": jnp.zeros((), dtype), "w": jnp.zeros((2, 3), dtype)}
    assert all(not x.any() for x in jax.tree.leaves(normalized(zeros)))
    derivative = jax.grad(lambda g: sum(jnp.sum(x).real for x in jax.tree.leaves(normalized(g))))(zeros)
    chex.assert_tree_all_finite(derivative)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16, jnp.complex64])
def test_all_leaves_together_have_norm_one(dtype):
    update = normalized({"b": jnp.asarray(300.0, dtype), "w": jnp.asarray([[0.0, 400.0]], dtype)})
    np.testing.assert_allclose(update["b"].astype(jnp.complex64), 0.6, rtol=4e-3)
    np.testing.assert_allclose(update["w"].astype(jnp.complex64), [[0.0, 0.8]], rtol=4e-3)
    assert update["w"].dtype == dtype


def test_nan_is_propagated_and_an_empty_tree_stays_empty():
    assert np.isnan(normalized(jnp.asarray([jnp.nan, 1.0]))).all()
    assert normalized({}) == {}
