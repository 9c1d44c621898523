"""Maximizing equals minimizing the negative function, for all extra arguments of optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax as gd
from tests.samples import assert_close, tree

RATE, B1, B2, EPS, DECAY = 0.1, 0.8, 0.95, 1e-3, 0.03


def hill(p):
    """A concave function with maximum 3 at 0.5."""
    return 3.0 - sum(jnp.sum((leaf - 0.5) ** 2) for leaf in jax.tree.leaves(p))


def adamw_uphill(p, gs):
    m = v = 0
    for step, g in enumerate(gs, 1):
        m = B1 * m + (1 - B1) * -g
        v = B2 * v + (1 - B2) * g**2
        direction = m / (1 - B1**step) / (np.sqrt(v / (1 - B2**step)) + EPS)
        p = p - RATE * (direction + DECAY * p)  # decay still shrinks
    return p


def test_maximizing_adamw_matches_numpy():
    with jax.enable_x64(True):
        tx = gd.maximize(gd.adamw(RATE, B1, B2, EPS, weight_decay=DECAY))
        start = params = tree(jnp.float64)
        state, gradients = tx.init(params), [tree(jnp.float64, seed=seed) for seed in range(1, 7)]
        for g in gradients:
            updates, state = tx.update(g, state, params)
            params = gd.apply_updates(params, updates)
        for leaf in start:
            expected = adamw_uphill(np.asarray(start[leaf]), [np.asarray(g[leaf]) for g in gradients])
            np.testing.assert_allclose(params[leaf], expected, rtol=1e-12)


USING_THE_FUNCTION = [
    "sgd(0.1, momentum=0.9)",
    "chain(sgd(1.0), scale_by_backtracking_linesearch(4))",
    "sam(sgd(0.1))",
    "polyak_sgd(f_min=-3.0)",
    "momo(1.0, lower_bound=-3.0)",
    "momo_adam(1.0, lower_bound=-3.0)",
    "chain(reduce_on_plateau(0.5, patience=1), sgd(0.1))",
    "packed(adam(0.1))",
    "by_path({'w': adam(0.1), '.*': frozen()})",
    "schedule_free_sgd(0.1)",
]
"""Optimizers that use the value of the function, or the function itself, in different ways."""


@pytest.mark.parametrize("text", USING_THE_FUNCTION)
def test_maximizing_equals_minimizing_the_negative(text):
    tx = gd.parse(text)
    up = jax.jit(gd.make_step(lambda p, _: hill(p), gd.maximize(tx)))
    down = jax.jit(gd.make_step(lambda p, _: -hill(p), tx))
    one, other = gd.State.create(tree(), gd.maximize(tx)), gd.State.create(tree(), tx)
    for _ in range(3):
        (one, up_metrics), (other, down_metrics) = up(one, None), down(other, None)
        assert_close((one.params, one.opt_state), (other.params, other.opt_state), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(up_metrics["loss"], -down_metrics["loss"], rtol=1e-5)
    assert hill(one.params) > hill(tree())
    assert_close(
        gd.eval_params(gd.maximize(tx), one.opt_state, one.params),
        gd.eval_params(tx, other.opt_state, other.params),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_fit_maximizes_and_its_history_holds_the_function():
    fit = gd.fit(lambda p, batch: hill(p), {"w": jnp.zeros(2)}, gd.maximize(gd.sgd(0.25)), steps=20, progress=False)
    np.testing.assert_allclose(fit.params["w"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(fit.history["loss"][0], 2.5, rtol=1e-6)


def test_float0_leaves_are_accepted():
    params = {"n": np.zeros(2, jax.dtypes.float0), "w": jnp.ones(2)}
    tx = gd.maximize(gd.by_path({"n": gd.frozen(), "w": gd.sgd(0.1)}))
    updates, _ = tx.update(params, tx.init({"n": jnp.arange(2), "w": jnp.ones(2)}))
    np.testing.assert_allclose(updates["w"], 0.1, rtol=1e-6)


def test_maximize_is_parsed_and_described():
    tx = gd.maximize(gd.adamw(1e-3))
    assert gd.parse(repr(tx)) == tx
    assert {row.transform for row in gd.describe(tx, tree()).rows} == {"maximize(adamw)"}


def test_a_maximum_of_zero_is_reached_with_f_min_of_minus_zero():
    step = jax.jit(gd.make_step(lambda p, _: hill(p) - 3.0, gd.maximize(gd.polyak_sgd(f_min=-0.0))))
    state = gd.State.create(tree(), gd.maximize(gd.polyak_sgd(f_min=-0.0)))
    for _ in range(20):
        state, _ = step(state, None)
    np.testing.assert_allclose(hill(state.params), 3.0, rtol=1e-5)
