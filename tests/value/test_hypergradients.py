"""Derivatives of a final loss with respect to the optimizer, against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from tests.samples import tree

STEPS = 50
OPTIMIZERS = [
    gd.sgd(0.02),
    gd.sgd(0.02, momentum=0.8, nesterov=True),
    gd.adamw(0.05, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1),
    gd.rmsprop(0.01, eps=1e-3, momentum=0.5, bias_correction=True),
    gd.sgd(gd.warmup_cosine(0.05, 7.5, 40.5, floor=0.01)),
    gd.adamw(gd.warmup_stable_decay(0.05, 5.5, 20.0, 15.0, floor=0.01), weight_decay=gd.constant(0.1)),
    gd.chain(gd.clip_by_global_norm(0.3), gd.adam(0.05)),
    gd.by_path({"w": gd.adam(0.05), ".*": gd.sgd(0.02)}),
    gd.yogi(0.05),
]


def final_loss(tx):
    target, scale = tree(jnp.float64, seed=3), jnp.linspace(0.5, 3.0, 3)

    def loss(params):
        return sum(jnp.sum(scale * jnp.square(leaf - target[name])) for name, leaf in params.items())

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (gd.apply_updates(params, updates), state), None

    params = tree(jnp.float64)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=STEPS)
    return loss(params)


@pytest.mark.parametrize("tx", OPTIMIZERS, ids=lambda tx: tx.factory.__name__)
def test_hypergradients_match_finite_differences(tx):
    with jax.enable_x64(True):
        loss_of = jax.jit(final_loss)
        derivative = jax.jit(jax.grad(final_loss))(tx)
        assert jax.tree.structure(derivative) == jax.tree.structure(tx)
        leaves, treedef = jax.tree.flatten(tx)
        for i, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(derivative), strict=True)):
            h = 1e-6 * max(abs(leaf), 1e-4)
            ends = [loss_of(treedef.unflatten([*leaves[:i], leaf + s, *leaves[i + 1 :]])) for s in (h, -h)]
            expected = (ends[0] - ends[1]) / (2 * h)
            scale = max(abs(expected), float(ends[0]) * 1e-9 / h)
            np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4 * scale)


def test_descent_on_a_hyperparameter_lowers_the_final_loss():
    tx = gd.sgd(0.001)
    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(final_loss))
        losses = []
        for _ in range(5):
            loss, derivative = slope(tx)
            losses.append(loss)
            tx = jax.tree.map(lambda number, d: number - 1e-6 * d, tx, derivative)
        assert losses == sorted(losses, reverse=True)
        assert tx.learning_rate > 0.001
