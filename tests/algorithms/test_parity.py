"""Numbers and states equal Optax's for every transform that both have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, loss, run, tree, update

MASK = {"b": False, "w": True}
WARM = optax.linear_schedule(0.02, 0.1, 2)


def warm_one_step_later(count):
    """Shift the rates for Optax's `schedule_free`, which weights step 0 by the rate at count 1."""
    return WARM(count - 1)


CALLS = {
    "sgd": lambda lib: lib.sgd(0.1),
    "momentum": lambda lib: lib.sgd(0.1, 0.9),
    "nesterov": lambda lib: lib.sgd(0.1, 0.9, True),
    "adam": lambda lib: lib.adam(0.1),
    "adam, all arguments": lambda lib: lib.adam(0.1, 0.8, 0.9, 1e-6, 1e-7, None, nesterov=True),
    "adamw": lambda lib: lib.adamw(0.1, weight_decay=0.1),
    "masked adamw": lambda lib: lib.adamw(0.1, weight_decay=0.1, mask=MASK),
    "mask as a function": lambda lib: lib.adamw(0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "scheduled": lambda lib: lib.adamw(lib.linear_schedule(0.1, 0.01, 3), weight_decay=optax.constant_schedule(0.1)),
    "nadam": lambda lib: lib.nadam(0.1),
    "nadamw": lambda lib: lib.nadamw(0.1, weight_decay=0.1),
    "rmsprop": lambda lib: lib.rmsprop(0.1),
    "rmsprop corrected": lambda lib: lib.rmsprop(0.1, 0.8, 1e-6, 0.5, False, bias_correction=True, momentum=0.9),
    "rmsprop centered": lambda lib: lib.rmsprop(0.1, centered=True),
    "clip": lambda lib: lib.chain(lib.clip(0.5), lib.scale(-0.1)),
    "clip by global norm": lambda lib: lib.chain(lib.clip_by_global_norm(0.5), lib.adam(0.1)),
    "clip by block rms": lambda lib: lib.chain(lib.clip_by_block_rms(0.5), lib.scale(-0.1)),
    "adaptive clipping": lambda lib: lib.chain(lib.adaptive_grad_clip(0.1), lib.scale(-0.1)),
    "normalized": lambda lib: lib.chain(lib.normalize_by_update_norm(2.0), lib.scale(-0.1)),
    "centralized": lambda lib: lib.chain(lib.centralize(), lib.scale(-0.1)),
    "zero nans": lambda lib: lib.chain(lib.zero_nans(), lib.scale(-0.1)),
    "ema": lambda lib: lib.chain(lib.ema(0.9), lib.scale(-0.1)),
    "biased ema": lambda lib: lib.chain(lib.ema(0.9, debias=False), lib.scale(-0.1)),
    "sign_sgd": lambda lib: lib.sign_sgd(0.1),
    "signum": lambda lib: lib.signum(0.1),
    "lion": lambda lib: lib.lion(0.1, 0.8, 0.9),
    "smooth lion": lambda lib: lib.chain(lib.scale_by_lion(mode="smooth", smooth_beta=2.0), lib.scale(-0.1)),
    "refined lion": lambda lib: lib.chain(lib.scale_by_lion(mode="refined"), lib.scale(-0.1)),
    "amsgrad": lambda lib: lib.amsgrad(0.1),
    "biased amsgrad": lambda lib: lib.amsgrad(0.1, 0.875, 0.96875, bias_correction_mu=False, bias_correction_nu=False),
    "adamax": lambda lib: lib.adamax(0.1),
    "adamaxw": lambda lib: lib.adamaxw(0.1, weight_decay=0.1),
    "radam": lambda lib: lib.radam(0.1, b2=0.9, threshold=4.0, nesterov=True),
    "adabelief": lambda lib: lib.adabelief(0.1, b2=0.9, nesterov=True),
    "yogi": lambda lib: lib.yogi(0.1),
    "novograd": lambda lib: lib.novograd(0.1, weight_decay=0.1),
    "adan": lambda lib: lib.adan(0.1, b2=0.5, weight_decay=0.1),  # Optax takes 1 - b2 where the paper has b2
    "ademamix": lambda lib: lib.contrib.ademamix(0.1, weight_decay=0.1),
    "scheduled ademamix": lambda lib: lib.contrib.ademamix(0.1, b3=lambda t: 0.9 + 0.01 * t, alpha=lambda t: 1.0 * t),
    "adopt": lambda lib: lib.contrib.adopt(0.1, nesterov=True),
    "unclipped adopt": lambda lib: lib.contrib.adopt(0.1, use_clipping=False),
    "adagrad": lambda lib: lib.adagrad(0.1),
    "adadelta": lambda lib: lib.adadelta(0.1, weight_decay=0.1),
    "adafactor": lambda lib: lib.adafactor(0.1, 3, momentum=0.9),
    "unfactored adafactor": lambda lib: lib.adafactor(0.1, factored=False, clipping_threshold=None),
    "lamb": lambda lib: lib.lamb(0.1, weight_decay=0.1),
    "lars": lambda lib: lib.lars(0.1, weight_decay=0.1, trust_coefficient=0.1),
    "fromage": lambda lib: lib.fromage(0.1),
    "scheduled fromage": lambda lib: lib.fromage(optax.constant_schedule(0.1)),
    "prodigy": lambda lib: lib.contrib.prodigy(estim_lr0=0.1, weight_decay=0.1),
    "scheduled prodigy": lambda lib: lib.contrib.prodigy(
        optax.linear_schedule(1.0, 0.1, 3), (0.8, 0.9), 0.7, 1e-6, 0.1, 2.0, safeguard_warmup=True
    ),
    "dadapt_adamw": lambda lib: lib.contrib.dadapt_adamw(betas=(0.9, 0.9), estim_lr0=0.1, weight_decay=0.1),
    "scheduled dadapt_adamw": lambda lib: lib.contrib.dadapt_adamw(
        optax.linear_schedule(1.0, 0.1, 3), (0.8, 0.9), 1e-6, 0.1
    ),
    "dog": lambda lib: lib.contrib.dog(0.5, ("heuristic", 0.1), weight_decay=0.1),
    "masked dog": lambda lib: lib.contrib.dog(1.0, ("learning_rate", 0.1), 1e-6, 0.1, MASK),
    "scheduled dog": lambda lib: lib.contrib.dog(optax.linear_schedule(1.0, 0.1, 3), ("distance", 0.1)),
    "dowg": lambda lib: lib.contrib.dowg(0.5, weight_decay=0.1),
    "scheduled dowg": lambda lib: lib.contrib.dowg(optax.linear_schedule(1.0, 0.1, 3), 0.1, 1e-6),
    "schedule_free_sgd": lambda lib: lib.contrib.schedule_free_sgd(0.1, weight_decay=0.1),
    "schedule_free_adamw": lambda lib: lib.contrib.schedule_free_adamw(0.1, b2=0.9, weight_decay=0.1),
    "scheduled schedule_free": lambda lib: lib.contrib.schedule_free(
        lib.sgd(WARM), WARM if lib is gd else warm_one_step_later, 0.8
    ),
    "ldog": lambda lib: lib.chain(lib.scale_by_distance_over_gradients(0.01, global_scale=0.5), lib.scale(-0.1)),
    "simplified_ademamix": lambda lib: lib.contrib.simplified_ademamix(0.1, alpha=0.5, weight_decay=0.1),
    "sm3": lambda lib: lib.sm3(0.1),
    "sm3 of means": lambda lib: lib.chain(lib.scale_by_sm3(0.8, 0.875, 1e-6), lib.scale(-0.1)),
    "optimistic_gradient_descent": lambda lib: lib.optimistic_gradient_descent(0.1, 1.5, 0.5),
    "optimistic_adam_v2": lambda lib: lib.optimistic_adam_v2(0.1, alpha=0.5, beta=2.0),
    "normalize": lambda lib: lib.chain(lib.contrib.normalize(), lib.scale(-0.1)),
    "apply_if_finite": lambda lib: lib.apply_if_finite(lib.adam(0.1), 2),
    "reduce_on_plateau": lambda lib: lib.chain(lib.contrib.reduce_on_plateau(0.5, 1), lib.scale(-0.1)),
    "block norm": lambda lib: lib.chain(lib.scale_by_param_block_norm(), lib.scale(-0.1)),
    "named chain": lambda lib: lib.named_chain(("clip", lib.clip(0.5)), ("adam", lib.adam(0.1))),
    "masked": lambda lib: lib.masked(lib.adam(0.1), MASK),
    "zero": lambda lib: lib.chain(lib.identity(), lib.set_to_zero()),
    "learning rate": lambda lib: lib.scale_by_learning_rate(0.1, flip_sign=False),
    "schedule": lambda lib: lib.scale_by_schedule(lambda count: 0.1 * count),
}
NO_COMPLEX = {
    *("clip", "named chain", "rmsprop centered", "adopt"),  # Optax orders complex numbers
    "adadelta",  # it squares them without their absolute value
    *("prodigy", "scheduled prodigy", "dadapt_adamw", "scheduled dadapt_adamw"),  # and these
    "adafactor",  # its momentum is real
    *("sm3", "sm3 of means"),  # refused
    *("simplified_ademamix", "ldog"),  # it squares them without their absolute value
    *("schedule_free_sgd", "schedule_free_adamw"),  # its learning rate is complex, and ordered
    *("scheduled schedule_free", "reduce_on_plateau"),
}
NO_FLOAT64 = {
    *("adafactor", "unfactored adafactor"),  # Optax's decay is float32
    *("scheduled", "scheduled schedule_free"),  # and its schedules
}
CASES = [pytest.param(call, id=name) for name, call in CALLS.items()]
NARROW = [
    pytest.param(lambda lib: lib.sgd(0.1, 0.9, accumulator_dtype=jnp.bfloat16), id="bfloat16 momentum"),
    pytest.param(lambda lib: lib.adam(0.1, mu_dtype=jnp.bfloat16), id="bfloat16 mu"),
]


def optax_version(call):
    """Return Optax's transform, made to ignore extra arguments that it does not use."""
    return optax.with_extra_args_support(call(optax))


@pytest.mark.parametrize("call", CASES)
def test_float32_steps_match_optax(call):
    ours, theirs = run(call(gd), tree()), run(optax_version(call), tree())
    assert_close(ours, theirs, rtol=5e-5, atol=1e-6)  # Optax's own bias correction is 1e-5 off at first


@pytest.mark.parametrize("call", [case for case in CASES if case.id not in NO_FLOAT64])
def test_float64_steps_match_optax(call):
    with jax.enable_x64(True):
        ours, theirs = run(call(gd), tree(jnp.float64)), run(optax_version(call), tree(jnp.float64))
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("call", [case for case in CASES if case.id not in NO_COMPLEX])
def test_complex_steps_match_optax(call):
    ours, theirs = run(call(gd), tree(jnp.complex64)), run(optax_version(call), tree(jnp.complex64))
    assert_close(ours, theirs, rtol=5e-5, atol=2e-6)


@pytest.mark.parametrize("call", CASES)
def test_bfloat16_updates_are_float32_updates_rounded_at_every_transform(call):
    params, grads = tree(jnp.bfloat16), tree(jnp.bfloat16, seed=1)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, grads))
    ours, _ = update(call(gd), grads, call(gd).init(params), params)
    theirs, _ = update(optax_version(call), wide[1], call(optax).init(wide[0]), wide[0])
    transforms = len(getattr(gd.expand(call(gd)), "arguments", {}).get("transforms", ())) or 1
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=(1 + transforms) * 2**-8, atol=1e-6)


STATES = [(jnp.float32, case) for case in CASES + NARROW]
STATES += [(jnp.complex64, case) for case in CASES if case.id not in {"adafactor", "ldog", "sm3", "sm3 of means"}]
"""Optax drops imaginary parts where a moment has a given dtype, and refuses complex numbers in SM3."""
STATES = [pytest.param(dtype, *case.values, id=f"{dtype.__name__}, {case.id}") for dtype, case in STATES]


@pytest.mark.parametrize(("dtype", "call"), STATES)
def test_state_structure_shapes_and_dtypes_match_optax(dtype, call):
    ours, theirs = call(gd).init(tree(dtype)), call(optax).init(tree(dtype))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert jax.tree.map(shape_and_dtype, ours) == jax.tree.map(shape_and_dtype, theirs)


def shape_and_dtype(x):
    """Return shape and dtype, real for scalars: Optax's estimates of the distance are complex if a leaf is."""
    return x.shape, x.dtype if x.ndim else jnp.real(x).dtype


def test_a_run_can_switch_between_gdjax_and_optax():
    params, grads = tree(), tree(seed=1)
    for first, second in ((gd, optax), (optax, gd)):
        half_way, state = run(first.adamw(0.1), params)
        continued, _ = second.adamw(0.1).update(grads, state, half_way)
        expected, _ = first.adamw(0.1).update(grads, state, half_way)
        assert_close(continued, expected, rtol=5e-5)


def trajectory(tx, params, nan_steps=(), steps=9):
    """Return parameters and state after every step, stacked; gradients are NaN at some steps."""

    def step(carry, number):
        params, state = carry
        at = params.fast if isinstance(params, optax.LookaheadParams) else params
        bad = jnp.isin(number, jnp.asarray(nan_steps, int))
        grads = jax.tree.map(lambda g: jnp.where(bad, jnp.nan, g * (1 + number)), jax.grad(loss)(at))
        updates, state = tx.update(grads, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))[1]


def test_apply_if_finite_matches_optax():
    with jax.enable_x64(True):
        wrapped = (lib.apply_if_finite(lib.adam(0.1), 2) for lib in (gd, optax))
        ours, theirs = (trajectory(tx, tree(jnp.float64), nan_steps=(1, 3, 4, 6)) for tx in wrapped)
        assert_close(ours, theirs, rtol=1e-10)
        np.testing.assert_array_equal(ours[1].total_notfinite, [0, 1, 1, 2, 3, 3, 4, 4, 4])


@pytest.mark.parametrize("reset_state", [False, True])
def test_lookahead_matches_optax_for_pairs_of_parameters(reset_state):
    with jax.enable_x64(True):
        wrapped = [lib.lookahead(lib.adam(0.1), 3, 0.4, reset_state) for lib in (gd, optax)]
        ours, theirs = (trajectory(tx, optax.LookaheadParams.init_synced(tree(jnp.float64))) for tx in wrapped)
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        assert_close(trajectory(wrapped[0], tree(jnp.float64))[0], ours[0].fast, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("every", [1, 3, lambda step: 1 + step], ids=["1", "3", "a schedule"])
def test_accumulate_matches_multi_steps(every):
    with jax.enable_x64(True):
        ours = trajectory(gd.accumulate(gd.adamw(0.1), every), tree(jnp.float64), steps=12)
        multi = optax.MultiSteps(optax.adamw(0.1), every, accumulator_dtype=jnp.float64)
        theirs = trajectory(multi, tree(jnp.float64), steps=12)
        assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-12)
        assert_close(ours[1][:2], theirs[1][:2], rtol=0)


@pytest.mark.parametrize("given", [(0.5, 4, 1e-2), (0.7, 3, 0.0, 0.05, 5), (0.3, 2, 1e-2, 0.01, 2, 4, 0.05)], ids=str)
def test_reduce_on_plateau_matches_optax_on_positive_losses(given):
    noise = jax.random.normal(jax.random.key(3), (400,))
    losses = 1 + 3 * jnp.exp(-jnp.arange(400) / 40) + 0.2 * noise

    def states(tx):
        return jax.lax.scan(lambda state, f: (tx.update(f, state, value=f)[1],) * 2, tx.init(losses[0]), losses)[1]

    ours, theirs = (states(lib.contrib.reduce_on_plateau(*given)) for lib in (gd, optax))
    assert losses.min() > 0.1
    assert ours.scale[-1] < 0.5
    assert_close(ours._replace(best_value=0.0), theirs._replace(best_value=0.0), rtol=1e-6)
    np.testing.assert_allclose(ours.best_value, theirs.best_value, rtol=1e-6)
