"""Check the numbers in docs/differences_from_optax.md against float64 and Optax."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd


def updates_of(tx, gradients):
    """Return the update of every step, and the last state."""
    params, state, found = jnp.ones_like(gradients[0]), tx.init(jnp.ones_like(gradients[0])), []
    update = jax.jit(tx.update)
    for g in gradients:
        updates, state = update(g, state, params)
        found.append(np.asarray(updates, np.float64))
    return np.stack(found), state


def adam(gradients, b1=0.9, b2=0.999):
    """Yield Adam's directions in float64, without an epsilon."""
    m = v = 0.0
    for t, g in enumerate(np.asarray(gradients, np.float64), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield m / (1 - b1**t) / np.sqrt(v / (1 - b2**t))


def test_norm_of_n_bfloat16_ones_is_the_root_of_n():
    ones = jnp.ones(3000, jnp.bfloat16)
    np.testing.assert_allclose(gd.global_norm(ones), np.sqrt(3000.0), rtol=1e-7)
    assert optax.tree.norm(ones) == 54.75


def test_norm_of_float16_numbers_is_right_when_their_squares_overflow():
    g = jnp.full(4, 300.0, jnp.float16)
    np.testing.assert_allclose(gd.global_norm(g), 600.0, rtol=1e-7)
    np.testing.assert_allclose(gd.clip_by_global_norm(1.0).update(g, ())[0], np.full(4, 0.5), rtol=1e-7)
    assert optax.tree.norm(g) == np.inf
    assert not optax.clip_by_global_norm(1.0).update(g, optax.EmptyState())[0].any()


GRADIENTS = [jnp.asarray([0.3, -5.0, 0.01], jnp.bfloat16) * t for t in range(1, 6)]


def updates_with_injected_hyperparams(factory, **dtype):
    return updates_of(optax.inject_hyperparams(factory, **dtype)(learning_rate=1.0, b2=0.999), GRADIENTS)


def test_a_decay_that_bfloat16_rounds_to_one_gives_no_nan():
    assert np.isnan(updates_with_injected_hyperparams(optax.adam)[0]).all()
    updates, state = updates_with_injected_hyperparams(gd.adam)
    assert state.hyperparams["b2"] == 1.0
    nearest = {"b1": float(state.hyperparams["b1"]), "b2": 1 - 2.0**-8}
    np.testing.assert_allclose(-updates, list(adam(GRADIENTS, **nearest)), rtol=2**-8)


def test_a_decay_injected_in_float32_gives_bfloat16_parameters_the_exact_step():
    updates, state = updates_with_injected_hyperparams(gd.adam, hyperparam_dtype=jnp.float32)
    np.testing.assert_allclose(-updates, list(adam(GRADIENTS)), rtol=2**-8)
    assert state.inner_state[0].nu.dtype == jnp.float32
    assert np.isnan(updates_with_injected_hyperparams(optax.adam)[0]).all()


def test_adam_update_is_zero_for_a_zero_float16_gradient():
    zeros = [jnp.zeros(3, jnp.float16)] * 3
    np.testing.assert_array_equal(updates_of(gd.adam(0.1), zeros)[0], 0.0)
    assert np.isnan(updates_of(optax.adam(0.1), zeros)[0]).all()


def test_adafactor_uses_its_first_decay_until_step_offset():
    gradients, v, expected = [jnp.asarray([0.3, -5.0]) * t for t in range(1, 7)], 0.0, []
    for t, g in enumerate(gradients):
        decay = 1 - max(t - 3 + 1, 1) ** -0.8
        v = decay * v + (1 - decay) * np.asarray(g, np.float64) ** 2
        expected.append(g / np.sqrt(v))
    updates, theirs = (updates_of(lib.scale_by_factored_rms(step_offset=3), gradients)[0] for lib in (gd, optax))
    np.testing.assert_allclose(updates, expected, rtol=1e-6)
    assert np.isnan(theirs).all()


def test_ademamix_has_one_default_of_alpha():
    def alphas(lib):
        return [inspect.signature(f).parameters["alpha"].default for f in (lib.ademamix, lib.scale_by_ademamix)]

    assert alphas(gd) == [5.0, 5.0]
    assert alphas(optax.contrib) == [5.0, 6.0]
    ours, theirs = (updates_of(lib.scale_by_ademamix(), [jnp.ones(1)])[0] for lib in (gd, optax.contrib))
    np.testing.assert_allclose(ours, 1 + 5 * (1 - float(np.float32(0.9999))), rtol=2**-23)
    np.testing.assert_allclose(theirs, 1 + 6 * (1 - 0.9999), rtol=1e-5)


@pytest.mark.parametrize(("decay", "wrong"), [(0.999, 1e-5), (0.9999, 1e-4)])
def test_ema_of_ones_is_one_from_the_first_step(decay, wrong):
    def worst(tx):
        def step(state, _):
            update, state = tx.update(jnp.ones(()), state)
            return state, update

        updates = jax.jit(lambda state: jax.lax.scan(step, state, length=3_000))(tx.init(jnp.ones(())))[1]
        return np.abs(np.asarray(updates, np.float64) - 1).max()

    ours, theirs = (worst(lib.ema(decay)) for lib in (gd, optax))
    assert ours < 4e-6
    assert theirs > wrong


def test_adan_weights_the_gradient_difference_by_b2():
    gradients, b1, b2, b3, second = [jnp.asarray([1.0]), jnp.asarray([2.0])], 0.98, 0.92, 0.99, {}
    for lead in (b2, 1 - b2):
        m, v = b1 * (1 - b1) * 1 + (1 - b1) * 2, (1 - b2) * (2 - 1)
        n = b3 * (1 - b3) * 1**2 + (1 - b3) * (2 + lead * (2 - 1)) ** 2
        second[lead] = (m / (1 - b1**2) + lead * v / (1 - b2**2)) / np.sqrt(n / (1 - b3**2))
    ours, theirs = (updates_of(lib.scale_by_adan(), gradients)[0][1] for lib in (gd, optax))
    np.testing.assert_allclose(ours, second[b2], rtol=1e-6)
    np.testing.assert_allclose(theirs, second[1 - b2], rtol=1e-5)


@pytest.mark.parametrize(("b2", "wrong"), [(0.999, 1e-5), (0.9999, 1e-4)])
def test_the_first_hundred_steps_of_adam_are_as_precise_as_float32(b2, wrong):
    steady = [jnp.asarray([1e-3, -2.0])] * 100
    ours, theirs = (updates_of(lib.scale_by_adam(b2=b2, eps=0.0), steady)[0] / [1, -1] - 1 for lib in (gd, optax))
    np.testing.assert_allclose(list(adam(steady, b2=b2)), [[1, -1]] * 100, rtol=1e-12)
    assert np.abs(ours).max() < 1e-6
    assert np.abs(theirs).max() > wrong


def learning_rate_free(lib, name, **given):
    """Return an optimizer that estimates its learning rate."""
    return getattr(lib.contrib, name)(**given)


@pytest.mark.parametrize("name", ["prodigy", "dog", "dowg"])
def test_parameters_and_a_state_that_stores_the_initial_ones_can_be_donated_together(name):
    def descended(lib):
        tx, params = learning_rate_free(lib, name), jnp.ones(3)
        step = jax.jit(lambda params, state, g: tx.update(g, state, params), donate_argnums=(0, 1))
        return step(params, tx.init(params), jnp.ones(3))

    updates, state = descended(gd)
    assert np.isfinite(updates).all()
    first = next(kept for field in ("params0", "init_params") if (kept := optax.tree.get(state, field)) is not None)
    np.testing.assert_array_equal(first, np.ones(3))
    with pytest.raises(jax.errors.JaxRuntimeError, match="donate the same buffer twice"):
        descended(optax)


def test_prodigy_estimate_has_float32_precision_for_bfloat16_parameters():
    d, r, s, b1, b2 = 0.01, 0.0, 0.0, 0.9, 0.999
    moved, gradients = -(np.arange(1000) // 8) / 128, np.where(np.arange(1000) % 2, -1.0, 2.0)
    for k, (x, g) in enumerate(zip(moved, gradients, strict=True)):
        weight = d**2 * np.sqrt(1 - b2 ** (k + 1)) / (1 - b1 ** (k + 1))
        r, s = b2**0.5 * r + weight * g * (0 - x), b2**0.5 * s + weight * g
        d = max(d, r / abs(s))
    narrow = [jnp.asarray(numbers, jnp.bfloat16)[:, None] for numbers in (gradients, moved)]
    np.testing.assert_array_equal(narrow[1][:, 0], moved)

    def estimate(lib):
        tx = learning_rate_free(lib, "prodigy", estim_lr0=0.01)
        step = jax.jit(lambda state, gx: (tx.update(gx[0], state, gx[1])[1], None))
        return jax.lax.scan(step, tx.init(jnp.zeros(1, jnp.bfloat16)), narrow)[0].estim_lr

    np.testing.assert_allclose(estimate(gd), d, rtol=1e-4)
    assert estimate(optax) < 0.8 * d


@pytest.mark.parametrize(("name", "field"), [("dog", "sum_sq_norm_grads"), ("dowg", "weighted_sq_norm_grads")])
def test_sum_of_squares_does_not_saturate_in_bfloat16(name, field):
    def relative_sum(lib):
        tx, zeros, ones = learning_rate_free(lib, name), jnp.zeros(3, jnp.bfloat16), jnp.ones(3, jnp.bfloat16)
        step = jax.jit(lambda state, _: (tx.update(ones, state, zeros)[1], None))
        begun = tx.init(zeros)
        first = optax.tree.get(step(begun, None)[0], field)
        return optax.tree.get(jax.lax.scan(step, begun, length=2000)[0], field) / first

    np.testing.assert_allclose(relative_sum(gd), 2000, rtol=1e-4)
    assert relative_sum(optax) < 500


WARMUP = {"learning_rate": optax.linear_schedule(0.0, 1.0, 10)}


@pytest.mark.parametrize(
    ("name", "given", "g"),
    [
        ("prodigy", {}, jnp.zeros(3)),
        ("prodigy", WARMUP, jnp.ones(3)),
        ("prodigy", {}, jnp.ones(3, jnp.float16)),
        ("dadapt_adamw", {}, jnp.zeros(3)),
        ("dadapt_adamw", WARMUP, jnp.ones(3)),
        ("dadapt_adamw", {}, jnp.ones(3, jnp.float16)),
        ("dog", {"eps": 0.0}, jnp.zeros(3)),
        ("dowg", {"eps": 0.0, "init_estim_sq_dist": 1e-4}, jnp.zeros(3)),
    ],
)
def test_empty_sums_cause_no_division_by_zero(name, given, g):
    (ours, state), (theirs, theirs_state) = (
        updates_of(learning_rate_free(lib, name, **given), [g, g]) for lib in (gd, optax)
    )
    assert np.isfinite(ours).all()
    chex.assert_tree_all_finite(state)
    assert not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((theirs, theirs_state)))
    if not g.any():
        np.testing.assert_array_equal(ours, 0.0)


def test_schedule_free_weight_sum_does_not_saturate_at_256_in_bfloat16():
    def descended(lib):
        tx = lib.contrib.schedule_free_sgd(1.0)
        params = {"narrow": jnp.zeros((), jnp.bfloat16), "wide": jnp.zeros(())}
        grads = jax.tree.map(lambda p: jnp.full_like(p, -1 / 64), params)

        def step(carry, _):
            updates, state = tx.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), length=1000)
        return state.weight_sum, params["wide"] - (1 - 0.9) * (state.z["wide"] - params["wide"]) / 0.9

    (ours, x), (theirs, other) = map(descended, (gd, optax))
    assert (ours, theirs) == (1000, 256)
    mean = np.mean(np.arange(1, 1001) / 64)
    np.testing.assert_allclose(x, mean, rtol=1e-5)
    assert other > 1.3 * mean


def test_schedule_free_eval_params_uses_the_given_b1_in_bfloat16():
    y, z = jnp.ones(1, jnp.bfloat16), jnp.full(1, 101.0)
    tx, x = gd.schedule_free_sgd(1.0, b1=0.9), (1 - (1 - 0.9) * 101) / 0.9
    np.testing.assert_allclose(np.asarray(gd.eval_params(tx, tx.init(y)._replace(z=z), y), float), x, rtol=2**-8)
    state = optax.contrib.schedule_free_sgd(1.0, b1=0.9).init(y)._replace(z=z)
    assert abs(optax.contrib.schedule_free_eval_params(state, y)[0] / x - 1) > 0.015


def test_apply_if_finite_accepts_updates_of_another_dtype():
    ones = jnp.ones(3, jnp.bfloat16)
    inner = optax.inject_hyperparams(optax.sgd, hyperparam_dtype=jnp.float32)(learning_rate=0.5)
    ours, theirs = (lib.apply_if_finite(inner, 1) for lib in (gd, optax))
    for g, expected in ((ones, -0.5), (ones * jnp.nan, 0.0)):
        updates, _ = ours.update(g, ours.init(ones), ones)
        assert updates.dtype == jnp.bfloat16
        np.testing.assert_array_equal(updates.astype(float), np.full(3, expected))
    with pytest.raises(TypeError, match="cond"):
        theirs.update(ones, theirs.init(ones), ones)


@pytest.mark.parametrize("drift", [0.0, 1e-5])
def test_a_negative_loss_that_no_longer_falls_reduces_the_rate(drift):
    losses = [-1.0 + drift * t for t in range(8)]

    def scales(tx):
        state = tx.init(jnp.ones(()))
        for loss in losses:
            updates, state = tx.update(jnp.ones(()), state, value=loss)
            yield float(updates)

    ours, theirs = (list(scales(lib.contrib.reduce_on_plateau(0.5, patience=3))) for lib in (gd, optax))
    assert ours == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert theirs == [1] * 8


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_accumulated_mean_is_rounded_once(dtype):
    gradients = np.random.default_rng(5).integers(-16, 17, size=(12, 100))
    gradients = np.concatenate([gradients, 2 - gradients])  # no partial sum exceeds 256
    exact = jnp.asarray(gradients.mean(0), dtype)

    def last_update(tx):
        update, state = jax.jit(tx.update), tx.init(exact)
        for g in jnp.asarray(gradients, dtype):
            updates, state = update(g, state)
        return updates

    ours = last_update(gd.accumulate(gd.identity(), len(gradients), dtype))
    theirs = last_update(optax.MultiSteps(optax.identity(), len(gradients), accumulator_dtype=dtype))
    np.testing.assert_array_equal(ours, exact)
    assert np.mean(theirs != exact) > 0.5


SIZES_WITH_OVERFLOWING_SQUARES = {
    "cocob()": 1e37,
    "differentially_private_aggregate(1.0, 0.0, key=0)": 1e37,
    "madgrad(1e-3)": 1e20,
    "mechanize(sgd(1.0))": 1e37,
}


@pytest.mark.parametrize(("text", "size"), SIZES_WITH_OVERFLOWING_SQUARES.items(), ids=SIZES_WITH_OVERFLOWING_SQUARES)
def test_steps_match_float64_when_squared_gradients_overflow(text, size):
    def steps(dtype):
        tx, params, made = gd.parse(text), {"w": jnp.asarray([1.0, -2.0, 3.0], dtype)}, []
        state = tx.init(params)
        for seed in range(2):
            shape = (2, 3) if "private" in text else (3,)
            grads = {"w": size * jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)}
            updates, state = tx.update(grads, state, params)
            params = gd.apply_updates(params, updates)
            made.append(np.asarray(updates["w"], np.float64))
        return np.stack(made)

    with jax.enable_x64(True):
        np.testing.assert_allclose(steps(jnp.float32), steps(jnp.float64), rtol=1e-5, atol=3e-7)
