"""Optimizers of gdjax inside Optax's wrappers, compared with the equal optimizer of Optax."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd

PARAMS = {
    "dense": {"kernel": jnp.linspace(0.5, 3.0, 6).reshape(3, 2), "bias": jnp.array([1.0, -2.0])},
    "head": jnp.array(4.0),
}


def matrices(params):
    return jax.tree.map(lambda p: p.ndim == 2, params)


def kinds(params):
    return jax.tree.map(lambda p: "matrix" if p.ndim == 2 else "other", params)


B2 = 0.9  # at the default of 0.999 Optax's own bias correction is 2e-5 off, which would set the tolerance
PAIRS = {
    "sgd": (gd.sgd(0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    "adamw": (gd.adamw(0.05, b2=B2, weight_decay=0.1), optax.adamw(0.05, b2=B2, weight_decay=0.1)),
    "rmsprop": (gd.rmsprop(0.05, momentum=0.5), optax.rmsprop(0.05, momentum=0.5)),
    "lion": (gd.lion(0.05), optax.lion(0.05)),
    "schedule": (
        gd.adam(gd.linear_schedule(0.1, 0.0, 8), b2=B2),
        optax.adam(optax.linear_schedule(0.1, 0.0, 8), b2=B2),
    ),
    "chain": (
        gd.chain(gd.clip_by_global_norm(1.0), gd.adam(0.05, b2=B2)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05, b2=B2)),
    ),
    "masked": (gd.masked(gd.adam(0.05, b2=B2), matrices), optax.masked(optax.adam(0.05, b2=B2), matrices)),
    "partition": (
        gd.partition({"matrix": gd.adamw(0.05, b2=B2), "other": gd.frozen()}, kinds),
        optax.partition({"matrix": optax.adamw(0.05, b2=B2), "other": optax.set_to_zero()}, kinds),
    ),
}
ONLY_IN_GDJAX = {  # not in Optax or with another state, each with an equivalent optimizer of Optax
    "by_path": (gd.by_path({"dense/kernel": gd.adamw(0.05, b2=B2), ".*": gd.frozen()}), PAIRS["partition"][1]),
    "watch": (gd.watch(gd.adamw(0.05, b2=B2, weight_decay=0.1)), PAIRS["adamw"][1]),
    "named_chain": (
        gd.named_chain(("clip", gd.clip_by_global_norm(1.0)), ("adam", gd.adam(0.05, b2=B2))),
        PAIRS["chain"][1],
    ),
}
WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip(0.5), tx, optax.scale(0.5)),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, every_k_schedule=2).gradient_transformation(),
    "masked": lambda tx: optax.masked(tx, {"dense": True, "head": False}),
    "partition": lambda tx: optax.partition({"a": tx, "b": optax.sgd(0.1)}, {"dense": "a", "head": "b"}),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, max_consecutive_errors=3),
}


def descend(tx, nan_step=6):
    """Return parameters and state after six steps down a bowl; the gradient is NaN at one step."""

    def step(carry, number):
        params, state = carry
        grads = jax.tree.map(lambda p: jnp.where(number == nan_step, jnp.nan, 0.3 * p + 0.1 * number), params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), jnp.arange(6))[0])(PARAMS)


assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_wrapped_optimizer_matches_the_wrapped_optimizer_of_optax(wrapper, pair):
    ours, theirs = (descend(WRAPPERS[wrapper](tx)) for tx in PAIRS[pair])
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert_close(ours, theirs)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ONLY_IN_GDJAX)
def test_optimizers_that_optax_lacks_can_be_wrapped(wrapper, name):
    (params, _), (expected, _) = (descend(WRAPPERS[wrapper](tx)) for tx in ONLY_IN_GDJAX[name])
    assert_close(params, expected)


@pytest.mark.parametrize(
    "tx", [gd.adamw(0.05), *(tx for tx, _ in ONLY_IN_GDJAX.values())], ids=["adamw", *ONLY_IN_GDJAX]
)
def test_apply_if_finite_skips_a_nonfinite_step(tx):
    params, state = descend(WRAPPERS["apply_if_finite"](tx), nan_step=5)
    assert state.total_notfinite == 1
    assert not state.last_finite
    chex.assert_tree_all_finite((params, state))
    assert np.all(optax.tree.get(state.inner_state, "count") == 5)


@pytest.mark.parametrize("rate", [0.05, gd.warmup_cosine(0.1, 2, 8), optax.cosine_decay_schedule(0.1, 8)])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "lion"])
def test_inject_hyperparams_matches_optax(name, rate):
    ours = optax.inject_hyperparams(getattr(gd, name))(learning_rate=rate)
    theirs = optax.inject_hyperparams(getattr(optax, name))(learning_rate=rate)
    (params, state), (expected, _) = descend(ours), descend(theirs)
    assert_close(params, expected)
    at_last_step = rate(5) if callable(rate) else rate
    np.testing.assert_allclose(state.hyperparams["learning_rate"], at_last_step, rtol=1e-6)


def test_an_injected_hyperparameter_can_be_changed_in_the_state():
    tx = optax.inject_hyperparams(gd.adamw)(learning_rate=0.1)
    state = tx.init(PARAMS)
    halved = optax.tree.set(state, learning_rate=jnp.float32(0.05))
    full, half = (tx.update(PARAMS, s, PARAMS)[0] for s in (state, halved))
    assert_close(half, optax.tree.scale(0.5, full))


@pytest.mark.parametrize("pair", PAIRS)
def test_map_params_finds_the_same_leaves_as_in_optax(pair):
    def marked(tx):
        def ones(leaf):
            return jnp.full_like(leaf, 1)

        return optax.tree.map_params(tx, ones, tx.init(PARAMS), transform_non_params=lambda leaf: leaf * 0 - 1)

    ours, theirs = map(marked, PAIRS[pair])
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert_close(ours, theirs)


@pytest.mark.parametrize(
    "tx", [gd.adamw(0.05), *(tx for tx, _ in ONLY_IN_GDJAX.values())], ids=["adamw", *ONLY_IN_GDJAX]
)
def test_map_params_matches_moments_with_parameters(tx):
    names = {"dense": {"kernel": "kernel", "bias": "bias"}, "head": "head"}
    named = optax.tree.map_params(
        tx,
        lambda _, name: name,
        tx.init(PARAMS),
        names,
        transform_non_params=lambda _: "",
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    assert optax.tree.get(named, "mu") == optax.tree.get(named, "nu") == names
    assert optax.tree.get(named, "count") == "".join(gd.metrics(named).values()) == ""


@pytest.mark.parametrize("pair", ["sgd", "adamw", "rmsprop", "lion", "chain", "masked", "partition"])
def test_tree_get_finds_the_same_as_in_optax(pair):
    ours, theirs = (descend(tx)[1] for tx in PAIRS[pair])
    for name in ("mu", "nu", "trace", "count"):
        found, expected = optax.tree.get(ours, name), optax.tree.get(theirs, name)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert_close(found, expected)
