"""Transforms around others: when they run, on which gradients, and what they refuse."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies
from jax.experimental import io_callback

import gdjax as gd
from tests.samples import assert_close, loss, run, signature_of, tree, update


def counted(runs):
    """Return a descent that records every run on the device, not every trace."""

    def update(updates, state, params=None):
        io_callback(lambda: runs.append(1), None)
        return jax.tree.map(jnp.negative, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize(("wrap", "expected"), [(gd.accumulate, 3), (optax.MultiSteps, 10)])
def test_accumulate_runs_the_inner_transform_only_at_every_third_call(wrap, expected):
    runs, params = [], tree()
    tx = wrap(counted(runs), 3)
    step, state = jax.jit(tx.update), tx.init(params)
    for _ in range(10):
        _, state = step(params, state, params)
    jax.effects_barrier()
    assert (len(runs), int(state.gradient_step), int(state.mini_step)) == (expected, 3, 1)


def test_accumulate_gives_zeros_and_then_a_step_by_the_mean_with_the_last_extra_arguments():
    inner = gd.chain(gd.reduce_on_plateau(0.5, accumulation_size=9), gd.sgd(1.0))
    tx, params, gs = gd.accumulate(inner, 3), tree(), [tree(seed=seed) for seed in range(1, 7)]
    step, state, values = jax.jit(tx.update), tx.init(params), [5.0, 5.0, 1.0, 5.0, 5.0, 2.0]
    for t, (g, value) in enumerate(zip(gs, values, strict=True)):
        updates, state = step(g, state, params, value=value)
        if t % 3 < 2:
            assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
        else:
            mean = jax.tree.map(lambda *of: -np.mean(np.asarray(of, np.float64), 0), *gs[t - 2 : t + 1])
            assert_close(updates, mean, rtol=1e-6, atol=1e-7)
    assert optax.tree.get(state, "avg_value") == 1.5


def test_accumulating_one_gradient_equals_the_inner_transform():
    inner, params = gd.sgd(0.5, momentum=0.5), tree()  # powers of 2, so that fused products round in the same way
    (ours, state), (theirs, inner_state) = run(gd.accumulate(inner, 1), params), run(inner, params)
    assert_close((ours, state.inner_state), (theirs, inner_state), rtol=0)


@pytest.mark.parametrize("kept", [None, jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_accumulators_and_updates_have_the_given_dtypes(dtype, kept):
    params, tx = tree(dtype), gd.accumulate(gd.sgd(1.0), 4, kept)
    step, state, ones = jax.jit(tx.update), tx.init(params), jax.tree.map(jnp.ones_like, params)
    for n in (1, 2, 3, 6):
        updates, state = step(jax.tree.map(lambda one, n=n: n * one, ones), state, params)
        assert updates["w"].dtype == dtype
        assert signature_of(state) == signature_of(tx.init(params))
    assert state.scaled_grads["w"].dtype == (kept or jnp.float32)
    assert_close(updates, jax.tree.map(lambda one: -3 * one, ones), rtol=0)


def test_an_accumulating_state_can_be_donated_at_every_step():
    tx, params, grads = gd.accumulate(gd.adam(0.1), 2), tree(), tree(seed=1)
    without_donation, with_donation = (
        jax.jit(lambda s: tx.update(grads, s, params), donate_argnums=n) for n in ((), 0)
    )
    state, other = tx.init(params), tx.init(params)
    for _ in range(4):
        old = state
        (updates, state), (expected, other) = with_donation(old), without_donation(other)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.scaled_grads, old.inner_state)))
        assert_close((updates, state), (expected, other), rtol=0)


def test_apply_if_finite_applies_the_third_consecutive_bad_gradient_when_two_are_allowed():
    tx, bad = gd.apply_if_finite(gd.sgd(1.0, momentum=1.0), 2), [0, 1, 1, 0, 1, 1, 1, 1, 0]
    gradients = jnp.where(jnp.asarray(bad), jnp.inf, 1.0)

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, (updates, state)

    _, (updates, states) = jax.lax.scan(step, tx.init(0.0), gradients)
    np.testing.assert_array_equal(updates, [-1, 0, 0, -2, 0, 0, -np.inf, -np.inf, -np.inf])
    np.testing.assert_array_equal(states.notfinite_count, [0, 1, 2, 0, 1, 2, 3, 4, 0])
    np.testing.assert_array_equal(states.total_notfinite, np.cumsum(bad))
    np.testing.assert_array_equal(states.last_finite, np.logical_not(bad))


DIRECTIONS = [gd.trace(0.9), gd.scale_by_adam(), gd.scale_by_lion(), gd.chain(gd.clip(0.1), gd.ema(0.9))]
NUMBERS = strategies.floats(-1e3, 1e3, width=32).map(lambda x: x if abs(x) > 1e-25 else 0.0)  # squares underflow
GRADIENTS = strategies.lists(strategies.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=4)


@pytest.mark.parametrize("inner", DIRECTIONS, ids=lambda tx: tx.factory.__name__)
@settings(deadline=None, derandomize=True, max_examples=25)
@given(gradients=GRADIENTS)
def test_cautious_zeroes_disagreeing_elements_and_rescales_the_rest(inner, gradients):
    tx, zeros = gd.cautious(inner), jnp.zeros(4)
    state = tx.init(zeros)
    for g in jnp.asarray(gradients, jnp.float32):
        plain, _ = inner.update(g, state, zeros)
        updates, state = tx.update(g, state, zeros)
        agrees = np.sign(plain) * np.sign(g) > 0
        assert (np.sign(updates) == np.where(agrees, np.sign(g), 0)).all()
        np.testing.assert_allclose(updates, np.where(agrees, plain, 0) * 4 / max(agrees.sum(), 1), rtol=1e-6)


def test_sam_uses_the_gradient_at_the_perturbed_point():
    def height(params):
        return sum(jnp.sum(jnp.cos(leaf) + leaf**4) for leaf in jax.tree.leaves(params))

    def slope(x):
        return -np.sin(x) + 4 * x**3

    tx = gd.sam(gd.sgd(0.01, momentum=0.7), rho=0.3)
    step = jax.jit(lambda params, state: tx.update(jax.grad(height)(params), state, params, value_fn=height))
    with jax.enable_x64(True):
        for dtype, rtol in ((jnp.float64, 1e-11), (jnp.float32, 2e-5)):
            params, trace = tree(dtype), 0.0
            state, expected = tx.init(params), {name: np.asarray(leaf) for name, leaf in tree(jnp.float64).items()}
            x = np.concatenate([leaf.ravel() for leaf in expected.values()])
            for _ in range(6):
                updates, state = step(params, state)
                params = gd.apply_updates(params, updates)
                trace = 0.7 * trace + slope(x + 0.3 * slope(x) / np.linalg.norm(slope(x)))
                x = x - 0.01 * trace
            found = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
            np.testing.assert_allclose(found, x, rtol=rtol, atol=rtol / 100)


def test_sam_gives_zero_for_a_zero_gradient():
    tx, zeros = gd.sam(gd.sgd(1.0)), jnp.zeros(3)
    updates, _ = tx.update(zeros, tx.init(zeros), zeros, value_fn=lambda x: jnp.sum(x**2))
    np.testing.assert_array_equal(updates, zeros)


WRAPPERS = {
    "accumulate": lambda tx: gd.accumulate(tx, 1),
    "apply_if_finite": lambda tx: gd.apply_if_finite(tx, 2),
    "cautious": gd.cautious,
    "lookahead": lambda tx: gd.lookahead(tx, 5, 0.5),
    "mars": gd.mars,
    "params_ema": gd.params_ema,
    "sam": gd.sam,
    "schedule_free": lambda tx: gd.schedule_free(tx, 0.1),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_passes_extra_arguments_on(wrapper):
    tx, params = WRAPPERS[wrapper](gd.reduce_on_plateau(accumulation_size=2)), tree()
    _, state = tx.update(params, tx.init(params), params, value=3.0, value_fn=loss)
    assert optax.tree.get(state, "avg_value") == 3.0
    with pytest.raises(ValueError, match=r"reduce_on_plateau needs the loss: call update\(.*, value=loss\)"):
        tx.update(params, tx.init(params), params, value_fn=loss)


def test_mars_accepts_a_decay_that_bfloat16_rounds_to_one():
    params = tree(jnp.bfloat16)
    _, state = run(optax.inject_hyperparams(gd.mars_adamw)(0.1, b1=0.999), params)
    assert state.hyperparams["b1"] == 1.0
    chex.assert_tree_all_finite(state)


NET = {"bias": jnp.ones(3), "dense": {"bias": jnp.ones(3), "kernel": jnp.ones((4, 3))}}
KERNELS = {"bias": False, "dense": {"bias": False, "kernel": True}}


@pytest.mark.parametrize(
    "call",
    [
        lambda mask: gd.adamw(0.1, weight_decay=0.5, mask=mask),
        lambda mask: gd.came(0.1, weight_decay=0.5, mask=mask),
        lambda mask: gd.masked(gd.sgd(0.1, momentum=0.9), mask),
        lambda mask: gd.chain(gd.add_cautious_weight_decay(gd.constant(0.5), mask), gd.sgd(0.1)),
    ],
)
def test_a_pattern_equals_the_mask_of_the_paths_it_matches(call):
    ours, theirs = call(".*kernel"), call(KERNELS)
    (updates, state), (expected, other) = (update(tx, NET, tx.init(NET), NET) for tx in (ours, theirs))
    assert_close((updates, state), (expected, other), rtol=0)
    assert gd.parse(repr(ours)) == ours
    assert np.any(updates["dense"]["kernel"][0] != updates["dense"]["bias"])
    biases = update(call(".*bias"), NET, call(".*bias").init(NET), NET)[0]
    np.testing.assert_array_equal(biases["bias"], biases["dense"]["bias"])
    with pytest.raises(ValueError, match="match one path at least, got the pattern 'kernel'; the paths are 'bias', 'd"):
        call("kernel").init(NET)


INNER = gd.sgd(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gd.accumulate(INNER, 0), r"accumulate: every must lie in \[1, inf\), got 0.0"),
        (lambda: gd.accumulate(INNER, 2, "int8"), "accumulator_dtype must be a floating or complex dtype, got int8"),
        (lambda: gd.lookahead(INNER, 0, 0.5), r"lookahead: sync_period must lie in \[1, inf\), got 0.0"),
        (lambda: gd.lookahead(INNER, 5, 2), r"lookahead: slow_step_size must lie in \[0, 1\], got 2.0"),
        (lambda: gd.lookahead(INNER, 5, jnp.ones(3)), r"must be a scalar here, got shape \(3,\)"),
        (lambda: gd.reduce_on_plateau(1), r"reduce_on_plateau: factor must lie in \(0, 1\), got 1.0"),
        (lambda: gd.reduce_on_plateau(rtol=0), "reduce_on_plateau: one of rtol and atol must be above 0, got 0.0"),
        (lambda: gd.apply_if_finite(INNER, -1), "apply_if_finite: max_consecutive_errors must be at least 0, got -1"),
        (lambda: gd.params_ema(INNER, 1), r"params_ema: decay must lie in \[0, 1\), got 1.0"),
        (lambda: gd.schedule_free_sgd(b1=0), r"schedule_free_sgd: b1 must lie in \(0, 1\], got 0.0"),
        (lambda: gd.sam(INNER, -1), r"sam: rho must lie in \[0, inf\), got -1.0"),
        (lambda: gd.mars(INNER, max_norm=0), r"mars: max_norm must lie in \(0, inf\], got 0.0"),
        (lambda: gd.cautious(gd.adam(0.1)), r"cautious: inner must be a direction, and adam has .* write chain\(caut"),
        (lambda: gd.masked(INNER, "("), r"masked: mask must be a regular expression over whole paths, got '\('"),
        (
            lambda: gd.adamw(0.1, mask="*"),
            r"add_decayed_weights: mask must be a regular expression over whole paths, got '\*'",
        ),
        (lambda: gd.reduce_on_plateau(), r"reduce_on_plateau needs the loss: call update\(.*, value=loss\)"),
        (lambda: gd.sam(INNER), r"sam needs the loss: call update\(updates, state, params, value_fn=loss\)"),
    ],
)
def test_invalid_arguments_are_refused_by_name(make, message):
    def update_without_loss(tx):
        return tx.update(tree(), tx.init(tree()), tree())

    with pytest.raises(ValueError, match=message):
        update_without_loss(make())


@pytest.mark.parametrize("wrapper", ["lookahead", "params_ema", "sam", "schedule_free"])
def test_wrappers_that_need_the_params_say_so(wrapper):
    tx = WRAPPERS[wrapper](INNER)
    with pytest.raises(ValueError, match=rf"{wrapper} needs the parameters: call update\(updates, state, params\)"):
        tx.update(tree(), tx.init(tree()), value_fn=loss)


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS.keys() - {"cautious", "sam"}))
def test_wrappers_refuse_a_foreign_state(wrapper):
    tx, params = WRAPPERS[wrapper](INNER), tree()
    with pytest.raises(ValueError, match=f"{wrapper}: the state does not belong to these params.*Make it with init"):
        tx.update(params, INNER.init(params), params)


def test_lookahead_distinguishes_states_of_pairs_and_of_parameters():
    tx, params = gd.lookahead(INNER, 5, 0.5), tree()
    pair = optax.LookaheadParams.init_synced(params)
    with pytest.raises(ValueError, match="lookahead: updates and params differ at 'b'"):
        tx.update(params, tx.init(params), pair)
    with pytest.raises(ValueError, match=r"lookahead: the state does not belong to these params: .*'slow/b'"):
        tx.update(params, tx.init(pair), params)


@pytest.mark.parametrize("weights", [(None,) * 4, (1e4, 2e4, 1e4, 0.0)], ids=["unweighted", "weighted"])
def test_the_mean_of_large_gradients_is_finite_when_their_sum_overflows(weights):
    tx, gs = gd.accumulate(gd.sgd(1.0), 4), jnp.float32([3e38, -3e38, 2e38, 1e38])
    step, state = jax.jit(tx.update), tx.init(0.0)
    for g, weight in zip(gs, weights, strict=True):
        update, state = step(g, state, weight=1.0 if weight is None else weight)
    shares = np.ones(4) if weights[0] is None else np.float64(weights)
    np.testing.assert_allclose(update, -np.average(np.float64(gs), weights=shares), rtol=1e-6)


def test_the_mean_over_micro_batches_is_finite_when_their_sum_overflows():
    step = gd.make_step(lambda p, batch: p * batch[0], gd.sgd(1.0), accumulate=4)
    state, _ = step(gd.State.create(0.0, gd.sgd(1.0)), jnp.full(8, 2e38))
    np.testing.assert_allclose(state.params, -2e38, rtol=1e-6)
