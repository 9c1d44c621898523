"""Matrix methods for gradients that are zero or nearly zero."""

import jax
import jax.numpy as jnp
import pytest

import gdjax as gd

DIRECTIONS = {
    "scale_by_muon": gd.scale_by_muon(),
    "scale_by_normuon": gd.scale_by_normuon(),
    "scale_by_shampoo": gd.scale_by_shampoo(every=1),
    "scale_by_soap": gd.scale_by_soap(every=1),
}


@pytest.mark.parametrize("tx", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_zero_gradient_gives_a_zero_update_and_a_finite_derivative(tx):
    params = jnp.ones((4, 4))

    def summed_update(g):
        return tx.update(g, tx.init(params), params)[0].sum()

    value, derivative = jax.jit(jax.value_and_grad(summed_update))(jnp.zeros((4, 4)))
    assert value == 0
    assert jnp.isfinite(derivative).all()


@pytest.mark.parametrize("tx", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_gradient_near_the_smallest_number_gives_a_finite_update(tx):
    g = 1e-38 * jnp.eye(4)
    assert jnp.isfinite(jax.jit(tx.update)(g, tx.init(g), g)[0]).all()
