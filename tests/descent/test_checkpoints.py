"""Orbax checkpoints: states move between Optax and gdjax, and an optimizer itself is saved as a tree of numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import gdjax as gd

PARAMS = {"dense": {"kernel": jnp.linspace(1.0, 3.0, 6).reshape(3, 2), "bias": jnp.array([1.0, -2.0])}}
RATE = gd.warmup_cosine(0.02, 2, 10)


def matrices(params):
    return jax.tree.map(lambda p: p.ndim == 2, params)


def run(tx, params, state, steps):
    """Return parameters and state after steps down a bowl that tilts with the step number."""

    def step(carry, number):
        params, state = carry
        grads = jax.tree.map(lambda p: (0.3 * p + 0.1 * jnp.cos(number)).astype(p.dtype), params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda *carry: jax.lax.scan(step, carry, jnp.asarray(steps))[0])(params, state)


def save_and_restore(tree, like, path):
    """Save a tree with Orbax and restore it with the structure of another."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "checkpoint", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "checkpoint", like)


def run_with_switch(first, then, path):
    """Take four steps with one optimizer, restore its checkpoint into the state of another, and take four with that."""
    saved = run(first, PARAMS, first.init(PARAMS), range(4))
    restored = save_and_restore(saved, jax.eval_shape(lambda p: (p, then.init(p)), PARAMS), path)
    chex.assert_trees_all_equal(restored, saved)
    return run(then, *restored, range(4, 8))


PAIRS = {
    "adamw": (gd.adamw(0.02), optax.adamw(0.02)),
    "adam": (gd.adam(RATE), optax.adam(RATE)),
    "sgd": (gd.sgd(0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    "rmsprop": (gd.rmsprop(0.02, momentum=0.9), optax.rmsprop(0.02, momentum=0.9)),
    "centered": (gd.rmsprop(RATE, centered=True), optax.rmsprop(RATE, centered=True)),
    "corrected": (gd.rmsprop(0.02, bias_correction=True), optax.rmsprop(0.02, bias_correction=True)),
    "decay": (gd.adamw(RATE, weight_decay=RATE, mask=matrices), optax.adamw(RATE, weight_decay=RATE, mask=matrices)),
    "chain": (
        gd.chain(gd.clip_by_global_norm(1.0), gd.adam(0.02)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.02)),
    ),
}
BOTH_WAYS = [
    pytest.param(*(pair[::way]), id=f"{name}-from-{source}")
    for name, pair in PAIRS.items()
    for way, source in ((-1, "optax"), (1, "gdjax"))
]


@pytest.mark.parametrize(("first", "then"), BOTH_WAYS)
def test_a_run_of_optax_or_gdjax_is_resumed_by_the_other(first, then, tmp_path):
    params, state = run_with_switch(first, then, tmp_path)
    expected = run(first, PARAMS, first.init(PARAMS), range(8))
    chex.assert_trees_all_close((params, state), expected, rtol=1e-5)
    from_fresh_state = run(
        then, *(run(first, PARAMS, first.init(PARAMS), range(4))[0], then.init(PARAMS)), range(4, 8)
    )[0]
    assert not np.allclose(params["dense"]["kernel"], from_fresh_state["dense"]["kernel"], rtol=1e-4)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_state_has_the_classes_of_optax(pair):
    ours, theirs = (jax.eval_shape(tx.init, PARAMS) for tx in PAIRS[pair])
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert jax.tree.leaves(ours) == jax.tree.leaves(theirs)


VALUES = {
    "adamw": gd.adamw(RATE, weight_decay=0.1),
    "lifted": gd.lift(optax.contrib.prodigy)(0.1),
    "chain": gd.chain(gd.clip_by_global_norm(1.0), gd.adam(gd.cosine_decay_schedule(0.1, 10))),
    "named_chain": gd.named_chain(("clip", gd.clip(0.5)), ("adam", gd.adam(0.02))),
    "watch": gd.watch(gd.rmsprop(RATE, centered=True), "all"),
    "masked": gd.masked(gd.adam(0.02), matrices),
    "by_path": gd.by_path({r"(?:dense|head_[0-9]+)/[^.]*\.?(?<!bias)": gd.adamw(0.02), r"^.*/bias$": gd.sgd(0.1, 0.9)}),
}


@pytest.mark.parametrize("value", VALUES)
def test_a_run_resumed_from_a_checkpoint_is_bitwise_equal(value, tmp_path):
    tx = VALUES[value]
    uninterrupted = run(tx, *run(tx, PARAMS, tx.init(PARAMS), range(4)), range(4, 8))
    chex.assert_trees_all_equal(run_with_switch(tx, tx, tmp_path), uninterrupted)


@pytest.mark.parametrize("value", VALUES)
def test_an_optimizer_is_restored_from_a_checkpoint_of_its_numbers(value, tmp_path):
    tx = VALUES[value]
    blank = jax.tree.map(lambda number: type(number)(0.5), tx)
    assert blank != tx
    restored = save_and_restore({"tx": tx, "params": PARAMS}, {"tx": blank, "params": PARAMS}, tmp_path)
    assert restored["tx"] == tx
    assert isinstance(restored["tx"], gd.GradientTransform)
    assert jax.tree.structure(restored["tx"]) == jax.tree.structure(tx)


def test_a_stack_of_optimizers_is_restored_with_its_arrays(tmp_path):
    tx = gd.stack([gd.adamw(rate) for rate in (0.1, 0.2, 0.4)])
    restored = save_and_restore(tx, jax.eval_shape(lambda: tx), tmp_path)
    assert restored == tx
    np.testing.assert_array_equal(restored.learning_rate, jnp.array([0.1, 0.2, 0.4]))


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_bfloat16_moments_of_optax_are_restored_as_float32(name, tmp_path):
    ours, theirs = getattr(gd, name)(0.02), getattr(optax, name)(0.02)
    params = optax.tree.cast(PARAMS, jnp.bfloat16)
    _, saved = run(theirs, params, theirs.init(params), range(4))
    restored = save_and_restore(saved, jax.eval_shape(ours.init, params), tmp_path)
    chex.assert_trees_all_equal(restored, jax.tree.map(lambda a, b: b.astype(a.dtype), restored, saved))
    _, state = run(ours, params, restored, range(4, 8))
    assert {nu.dtype for nu in jax.tree.leaves(optax.tree.get(state, "nu"))} == {jnp.dtype("float32")}
