"""Averages of parameters: schedule-free, moving averages and lookahead against their papers, and `eval_params`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, tree

STEPS, RATE, B1, B2, EPS, LAMBDA, POWER = 9, 0.2, 0.8, 0.95, 1e-3, 0.03, 1.5
SLOPE = np.linspace(0.3, 2.0, 3)


def gradient(p, t):
    """Return the gradient of a bowl whose minimum moves, so that it differs at x, y and z."""
    return SLOPE * (p - np.cos(t))


def descended(tx, dtype=jnp.float64, steps=STEPS, by_hand=0.0):
    """Return parameters and evaluation parameters after every step, each followed by an offset added by hand."""

    def step(carry, t):
        params, state = carry
        grads = jax.tree.map(lambda p: (jnp.asarray(SLOPE, dtype) * (p - jnp.cos(t))).astype(dtype), params)
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(lambda p: p + by_hand, gd.apply_updates(params, updates))
        return (params, state), (params, gd.eval_params(tx, state, params))

    start = tree(dtype)
    times = jnp.arange(1, steps + 1, dtype=dtype)
    return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), times)[1])()


def assert_matches_reference(reference, tx, **given):
    """Compare every step of a run with a reference that yields parameters and average, in float64 and float32."""
    with jax.enable_x64(True):
        for dtype, rtol, atol in ((jnp.float64, 1e-11, 1e-13), (jnp.float32, 2e-5, 2e-6)):
            runs = descended(tx, dtype, **given)
            for name, leaf in tree(jnp.float64).items():
                for found, expected in zip(runs, zip(*reference(np.asarray(leaf)), strict=True), strict=True):
                    np.testing.assert_allclose(found[name], expected, rtol=rtol, atol=atol)


def schedule_free(p, adam=False, warmup=None, decay=0.0, power=2.0):
    """Yield y and x by algorithm 1; the learning rate has no bias correction of Adam."""
    x = y = z = p
    v, total = 0.0, 0.0
    for t in range(1, STEPS + 1):
        y = (1 - B1) * z + B1 * x
        g = gradient(y, t)
        v = B2 * v + (1 - B2) * g**2
        u = g / (np.sqrt(v / (1 - B2**t)) + EPS) if adam else g
        rate = RATE * min(1, (t - 1) / warmup if warmup else 1)
        z = z - rate * (u + decay * y)
        total += rate**power
        c = rate**power / total if total else 0.0
        x = (1 - c) * x + c * z
        yield (1 - B1) * z + B1 * x, x


@pytest.mark.parametrize("given", [{}, {"warmup": 4}, {"warmup": 4, "decay": LAMBDA, "power": POWER}])
@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adamw"])
def test_schedule_free_matches_the_paper_at_y_and_x(adam, given):
    names = {"warmup": "warmup_steps", "decay": "weight_decay", "power": "weight_lr_power"}
    settings = {names[name]: number for name, number in given.items()} | {"b1": B1}
    tx = gd.schedule_free_adamw(RATE, b2=B2, eps=EPS, **settings) if adam else gd.schedule_free_sgd(RATE, **settings)
    assert_matches_reference(lambda p: schedule_free(p, adam, **given), tx)


def test_schedule_free_weights_a_step_by_its_own_rate():
    rate = gd.linear_schedule(0.0, 0.1, 2)
    tx = gd.schedule_free(gd.sgd(rate), rate, b1=0.9)
    y, state, seen = 1.0, tx.init(1.0), []
    for _ in range(5):
        update, state = tx.update(1.0, state, y)
        y = gd.apply_updates(y, update)
        seen.append(y)
    np.testing.assert_allclose(seen, [1, 0.95, 0.868, 0.81, 0.753846], rtol=1e-6)
    np.testing.assert_allclose(gd.eval_params(tx, state, y), (0.0025 * 0.95 + 0.01 * (0.85 + 0.75 + 0.65)) / 0.0325)


def test_warmup_steps_apply_to_a_schedule():
    decaying = gd.linear_schedule(0.4, 0.1, 6)
    both = gd.schedule_free_sgd(decaying, warmup_steps=3)
    by_hand = gd.schedule_free_sgd(lambda count: jnp.minimum(count / 3, 1.0) * decaying(count))
    for ours, theirs in zip(*(descended(tx, jnp.float32) for tx in (both, by_hand)), strict=True):
        assert_close(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float16])
def test_x_is_the_mean_of_z_as_stored(dtype):
    tx, params = gd.schedule_free_sgd(0.01, state_dtype=dtype), tree()
    state, zs = tx.init(params), []
    step = jax.jit(tx.update)
    for t in range(60):
        updates, state = step(jax.tree.map(lambda p, t=t: jnp.cos(p + t), params), state, params)
        params = gd.apply_updates(params, updates)
        zs.append(np.asarray(state.z["w"], np.float64))
    assert state.z["w"].dtype == (dtype or jnp.float32)
    np.testing.assert_allclose(gd.eval_params(tx, state, params)["w"], np.mean(zs, 0), rtol=1e-5, atol=1e-6)


def weighted_mean(decay, by_hand=0.0):
    """Return a reference for the average of p_1 ... p_t with normalized, exponentially decaying weights."""

    def steps(p):
        trajectory = []
        for t in range(1, STEPS + 1):
            p = p - RATE * gradient(p, t) + by_hand
            trajectory.append(p)
            weights = decay ** np.arange(t - 1.0, -1, -1)
            yield p, np.tensordot(weights, trajectory, 1) / weights.sum()

    return steps


@pytest.mark.parametrize("by_hand", [0.0, 0.25])
@pytest.mark.parametrize("decay", [0.0, 0.7, 0.999])
def test_params_ema_is_the_weighted_mean_of_parameters_changed_by_hand_too(decay, by_hand):
    assert_matches_reference(weighted_mean(decay, by_hand), gd.params_ema(gd.sgd(RATE), decay), by_hand=by_hand)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9999])
@pytest.mark.parametrize("traced", [False, True])
def test_the_weights_of_params_ema_sum_to_one_in_float32(decay, traced):
    tx, p = gd.params_ema(gd.sgd(0.0), jnp.float32(decay) if traced else decay), jnp.float32(1.5)
    np.testing.assert_allclose(gd.eval_params(tx, tx.init(p), p), p, rtol=2e-7)

    def step(state, _):
        state = tx.update(p, state, p)[1]
        return state, gd.eval_params(tx, state, p)

    _, means = jax.jit(lambda: jax.lax.scan(step, tx.init(p), length=1000))()
    np.testing.assert_allclose(means, np.full(1000, p), rtol=3e-6)  # with rounded decays the error was 1.7e-4


def lookahead(p, period=4, alpha=0.3):
    """Yield fast and slow weights by algorithm 1: inner steps of the fast ones, then one step of the slow ones."""
    slow = fast = p
    for t in range(1, STEPS + 1):
        fast = fast - RATE * gradient(fast, t)
        if t % period == 0:
            slow = fast = slow + alpha * (fast - slow)
        yield fast, slow


def test_lookahead_matches_the_paper_and_evaluates_at_the_slow_parameters():
    assert_matches_reference(lookahead, gd.lookahead(gd.sgd(RATE), 4, 0.3))


def test_lookahead_resets_the_fast_optimizer_at_every_synchronization():
    tx, p, g = gd.lookahead(gd.sgd(1.0, momentum=0.5), 2, 1.0, reset_state=True), jnp.zeros(2), jnp.ones(2)
    state, steps = tx.init(p), []
    for _ in range(5):
        updates, state = tx.update(g, state, p)
        steps.append(float(updates[0]))
        p = gd.apply_updates(p, updates)
    assert steps == [-1.0, -1.5, -1.0, -1.5, -1.0]


def final_loss(tx):
    """Return the loss at the evaluation parameters."""
    _, means = descended(tx, steps=30)
    return sum(jnp.sum(jnp.asarray(SLOPE) * jnp.square(leaf[-1] - 0.3)) for leaf in jax.tree.leaves(means))


@pytest.mark.parametrize(
    "tx",
    [
        gd.schedule_free_adamw(0.05, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1),
        gd.schedule_free_sgd(0.05, warmup_steps=4.5, weight_lr_power=1.0),
        gd.params_ema(gd.sgd(0.05, momentum=0.8), 0.9),
        gd.lookahead(gd.sgd(0.05), 4.5, 0.3),
    ],
    ids=lambda tx: tx.factory.__name__,
)
def test_hypergradients_match_finite_differences(tx):
    with jax.enable_x64(True):
        loss, slopes = jax.jit(final_loss), jax.tree.leaves(jax.jit(jax.grad(final_loss))(tx))
        numbers, treedef = jax.tree.flatten(tx)
        for i, (number, slope) in enumerate(zip(numbers, slopes, strict=True)):
            h = 1e-6 * abs(number)
            up, down = (loss(treedef.unflatten([*numbers[:i], number + s, *numbers[i + 1 :]])) for s in (h, -h))
            np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=1e-5, atol=1e-7)
        assert max(map(abs, slopes)) > 1e-3


FREE = gd.schedule_free_adamw(0.1, b1=B1)
EMA = gd.params_ema(gd.sgd(0.1), 0.7)
HOLDERS = {
    "itself": lambda tx: tx,
    "chain": lambda tx: gd.chain(gd.clip(1e3), tx),
    "named_chain": lambda tx: gd.named_chain(("clip", gd.clip(1e3)), ("step", tx)),
    "watch": gd.watch,
    "masked by True": lambda tx: gd.masked(tx, True),
    "apply_if_finite": lambda tx: gd.apply_if_finite(tx, 2),
    "accumulate": lambda tx: gd.accumulate(tx, 1),
    "optax.MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "optax.chain": lambda tx: optax.chain(optax.clip(1e3), tx),
    "optax.masked": lambda tx: optax.masked(tx, {"b": True, "w": True}),
    "optax.apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
}


@functools.cache
def unwrapped(tx):
    return descended(tx, jnp.float32)


@pytest.mark.parametrize("holder", HOLDERS)
def test_eval_params_finds_the_average_inside_containers(holder):
    for tx in (FREE, EMA):
        params, found = descended(HOLDERS[holder](tx), jnp.float32)
        assert_close((params, found), unwrapped(tx), rtol=1e-5, atol=1e-6)
        assert np.abs(found["w"] - params["w"]).max() > 0.05


def test_eval_params_finds_the_average_of_each_group_and_leaves_others():
    parts = {"b": FREE, "w": EMA}
    expected = {name: unwrapped(tx)[1][name] for name, tx in parts.items()}
    for tx in (gd.by_path(parts), optax.partition(parts, {"b": "b", "w": "w"})):
        assert_close(descended(tx, jnp.float32)[1], expected, rtol=1e-5, atol=1e-6)
    params, found = descended(gd.masked(EMA, "w"), jnp.float32)
    np.testing.assert_array_equal(found["b"], params["b"])
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5)


@pytest.mark.parametrize("factory", [gd.schedule_free_adamw, gd.schedule_free_sgd, optax.contrib.schedule_free_adamw])
def test_eval_params_finds_the_average_under_inject_hyperparams(factory):
    tx = optax.inject_hyperparams(factory)(learning_rate=gd.constant(0.1), b1=B1)
    params, found = descended(tx, jnp.float32)
    assert_close((params, found), descended(factory(learning_rate=0.1, b1=B1), jnp.float32), rtol=1e-5, atol=1e-5)
    assert np.abs(found["w"] - params["w"]).max() > 0.05


def test_eval_params_uses_the_outermost_average():
    params, found = descended(gd.params_ema(FREE, 0.7), jnp.float32)
    weights = 0.7 ** np.arange(STEPS - 1.0, -1, -1)
    np.testing.assert_allclose(found["w"][-1], np.tensordot(weights / weights.sum(), params["w"], 1), rtol=1e-5)


@pytest.mark.parametrize("tx", [gd.adamw(0.1), gd.mars_adamw(0.1), gd.accumulate(gd.sgd(0.1), 2), optax.adam(0.1)])
def test_eval_params_returns_the_parameters_for_other_optimizers(tx):
    params = tree()
    assert gd.eval_params(tx, tx.init(params), params) is params


def test_eval_params_keeps_dtypes_and_refuses_a_foreign_state():
    narrow = tree(jnp.bfloat16)
    assert gd.eval_params(FREE, FREE.init(narrow), narrow)["w"].dtype == jnp.bfloat16
    message = "eval_params: the state does not belong to these params: at "
    for tx, other, where in ((FREE, gd.adamw(0.1), "'0/count'"), (gd.adamw(0.1), FREE, "'b1'"), (EMA, FREE, "'b1'")):
        with pytest.raises(ValueError, match=f"{message}{where}: .* in the state given, nothing in the one that init"):
            gd.eval_params(tx, other.init(narrow), narrow)
    with pytest.raises(ValueError, match=rf"{message}.*: float32\[2\] in the state given, float32\[4,3\] in the one"):
        gd.eval_params(EMA, EMA.init({"b": narrow["b"], "w": jnp.ones(2)}), narrow)
