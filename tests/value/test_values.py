"""An optimizer is a value: a pytree of its numbers, equal, hashed and replaced by them."""

import copy
import functools
import pickle
from collections import OrderedDict
from typing import Any, NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax as gd
from tests.samples import assert_close, names, run, sample, tree

TX = gd.chain(gd.clip_by_global_norm(1.0), gd.adamw(gd.warmup_cosine(3e-4, 1_000, 20_000)))


def quadratic(params):
    return sum(jnp.sum(jnp.square(leaf - 1.0)) for leaf in jax.tree.leaves(params))


def train(tx, params, steps=20):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(quadratic)(params), state, params)
        return (gd.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0]


def at(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def test_an_optimizer_is_an_optax_optimizer():
    init, update = TX
    assert isinstance(TX, optax.GradientTransformationExtraArgs)
    assert (init, update) == (TX.init, TX.update) == tuple(TX)
    assert optax.with_extra_args_support(TX) is TX
    replaced = TX._replace(init=lambda params: ())
    assert type(replaced) is optax.GradientTransformationExtraArgs


def test_the_leaves_of_an_optimizer_are_its_hyperparameters():
    assert jax.tree.leaves(gd.adamw(0.1)) == [0.1, 0.9, 0.999, 1e-8, 0.0, 1e-4]
    paths = [jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(TX)]
    assert paths[:2] == [".transforms[0].max_norm", ".transforms[1].learning_rate.peak"]


def test_changing_a_hyperparameter_compiles_nothing():
    traced = []
    compiled = jax.jit(lambda tx, params: traced.append(tx) or train(tx, params))
    for rate in (0.1, 0.2, np.float32(0.3), jnp.float32(0.3) * 1.0):
        compiled(gd.adamw(rate), tree())
    compiled(gd.adamw(gd.warmup_cosine(0.1, 2, 10)), tree())
    compiled(gd.adamw(gd.warmup_cosine(0.2, 3, 20)), tree())
    assert len(traced) == 3  # Python numbers, an array, a schedule


@pytest.mark.parametrize(
    "make",
    [
        gd.sgd,
        functools.partial(gd.sgd, momentum=0.9),
        gd.adamw,
        gd.rmsprop,
        lambda r: gd.sgd(gd.warmup_cosine(r, 5, 20)),
    ],
    ids=["sgd", "momentum", "adamw", "rmsprop", "scheduled"],
)
def test_a_stack_of_optimizers_is_a_sweep(make):
    txs, params = [make(rate) for rate in (1e-3, 1e-2, 0.1)], tree()
    sweep = jax.jit(jax.vmap(train, in_axes=(0, None)))(gd.stack(txs), params)
    for i, tx in enumerate(txs):
        single = jax.jit(train)(jax.tree.map(jnp.float32, tx), params)
        assert_close(at(sweep, i), single, rtol=2e-6, atol=1e-7)


def test_a_stack_of_sgd_is_bitwise_equal_to_single_runs():
    txs, params = [gd.sgd(rate, momentum=0.5) for rate in (0.25, 0.125, 0.0625)], tree()
    step = jax.jit(lambda tx, g: tx.update(g, tx.init(g), g)[0])
    sweep = jax.jit(jax.vmap(lambda tx, g: tx.update(g, tx.init(g), g)[0], in_axes=(0, None)))(gd.stack(txs), params)
    for i, tx in enumerate(txs):
        assert_close(at(sweep, i), step(tx, params), rtol=0)


def test_optimizers_that_differ_in_more_than_numbers_are_not_stacked():
    with pytest.raises(ValueError, match=r"stack: sgd.*adam.*number 1, differ in more than numbers"):
        gd.stack([gd.sgd(0.1), gd.adam(0.1)])
    with pytest.raises(ValueError, match="at least one"):
        gd.stack([])


def test_equality_and_hash_are_by_value():
    assert gd.adam(1) == gd.adam(1.0) == gd.adam(np.float64(1.0))
    assert len({gd.adam(0.1), gd.adam(0.1), gd.adam(0.2), gd.adamw(0.1)}) == 3
    assert gd.adam(0.1, mu_dtype=np.float32) == gd.adam(0.1, mu_dtype=np.dtype("float32"))
    assert gd.adam(jnp.float32(0.1)) == gd.adam(jnp.float32(0.1)) != gd.adam(0.1)
    assert gd.masked(TX, {"w": True}) == gd.masked(TX, {"w": True}) != gd.masked(TX, {"w": False})
    assert hash(gd.masked(TX, {"w": True})) == hash(gd.masked(TX, {"w": True}))
    assert gd.by_path({"a": TX, ".*": gd.frozen()}) != gd.by_path({".*": gd.frozen(), "a": TX})
    assert gd.lift(optax.contrib.momo)(0.1) == gd.momo(0.1)
    assert gd.adam(0.1) != (gd.adam(0.1).init, gd.adam(0.1).update)


def test_equal_static_arguments_compile_once():
    traced = []
    compiled = jax.jit(lambda tx, params: traced.append(tx) or train(tx, params), static_argnums=0)
    for _ in range(3):
        compiled(gd.adamw(gd.warmup_cosine(0.1, 2, 10), mask={"b": False, "w": True}), tree())
    assert len(traced) == 1


def test_an_optimizer_with_arrays_cannot_be_hashed_and_says_why():
    with pytest.raises(TypeError, match=r"chain cannot be hashed: transforms/0/max_norm is array\(1.0, float32\)"):
        hash(jax.tree.map(jnp.float32, TX))
    with pytest.raises(TypeError, match=r"sgd cannot be hashed: learning_rate is <traced float32\[\]>"):
        jax.jit(lambda rate: hash(gd.sgd(rate)))(0.1)


def test_nested_hyperparameters_are_read_and_replaced():
    assert (TX.peak, TX.max_norm, TX.transforms[1].b1) == (3e-4, 1.0, 0.9)
    other = TX.replace(peak=1e-3, max_norm=2)
    assert (other.peak, other.max_norm, TX.peak) == (1e-3, 2.0, 3e-4)
    assert other.replace({"transforms/1/learning_rate": 0.5}).learning_rate == 0.5
    parts = gd.by_path({"a/.*": gd.sgd(0.1), ".*": gd.adam(0.1)})
    assert parts.replace({"transforms/a/.*/learning_rate": 0.3}).transforms["a/.*"].learning_rate == 0.3
    named = gd.named_chain(("clip", gd.clip(1.0)), ("sgd", gd.sgd(0.1)))
    assert named.replace(learning_rate=0.2) == gd.named_chain(("clip", gd.clip(1.0)), ("sgd", gd.sgd(0.2)))


def test_unreachable_hyperparameters_are_refused_with_a_fix():
    parts = gd.by_path({"a/.*": gd.sgd(0.1), ".*": gd.adam(0.1)})
    with pytest.raises(
        AttributeError, match=r"holds 2 hyperparameters learning_rate: give a path, one of 'transforms/a"
    ):
        parts.replace(learning_rate=0.2)
    with pytest.raises(AttributeError, match=r"no hyperparameter 'learning_rat', did you mean 'learning_rate'"):
        _ = TX.learning_rat
    with pytest.raises(ValueError, match=r"b1 must lie in \[0, 1\), got 1.0"):
        TX.replace(b1=1.0)
    with pytest.raises(AttributeError, match=r"adam is a value; make another: replace\(b1=0.5\)"):
        gd.adam(0.1).b1 = 0.5
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del gd.adam(0.1).b1
    assert not hasattr(TX, "nothing")


def test_a_named_optimizer_equals_the_chain_it_expands_to():
    tx = gd.adamw(0.1, weight_decay=0.2)
    assert repr(tx).startswith("adamw(learning_rate=0.1, b1=0.9, b2=0.999, eps=1e-08,")
    assert gd.expand(tx) == gd.chain(gd.scale_by_adam(), gd.add_decayed_weights(0.2), gd.scale_by_learning_rate(0.1))
    assert_close(run(tx, tree()), run(gd.expand(tx), tree()), rtol=0)
    assert gd.expand(gd.clip(1.0)) == gd.clip(1.0)


@pytest.mark.parametrize("name", names(gd.GradientTransform) + names(gd.Schedule))
def test_values_are_copied_and_pickled(name):
    value = sample(name)
    for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value)), _through_cloud(value)):
        assert again == value
        assert type(again) is type(value)


def _through_cloud(value):
    return cloudpickle.loads(cloudpickle.dumps(value))


class Named(NamedTuple):
    w: Any


def test_arrays_and_dicts_of_the_caller_are_copied():
    rate, mask, table = np.array(0.1), {"w": True}, np.ones(2)
    tx, view = gd.masked(gd.sgd(rate), mask), table[:]
    view.flags.writeable = False
    ordered = OrderedDict(mask)
    masks = [gd.masked(gd.sgd(0.1), given).mask for given in ({"w": table}, {"w": view}, Named(table), ordered)]
    rate[...], mask["w"], table[...], ordered["w"] = 5.0, False, 5.0, False
    assert (float(tx.learning_rate), tx.mask) == (0.1, {"w": True})
    assert [type(mask) for mask in masks] == [dict, dict, Named, OrderedDict]
    for leaves in map(jax.tree.leaves, masks):
        np.testing.assert_array_equal(leaves, [np.ones_like(leaves[0])])
    with pytest.raises(ValueError, match="read-only"):
        masks[1]["w"][0] = 5.0


def test_a_lifted_value_is_pickled():
    tx = gd.lift(optax.contrib.momo)(learning_rate=1.0)
    assert pickle.loads(pickle.dumps(tx)) == tx == gd.momo(1.0)
    tx = gd.lift(optax.rprop, static=["eta_plus"])(0.1)
    assert pickle.loads(pickle.dumps(tx)) == tx != gd.rprop(0.1)


def test_the_gradient_by_an_optimizer_is_an_optimizer():
    derivative = jax.grad(lambda tx: quadratic(train(tx, tree())))(gd.sgd(0.01, momentum=0.5))
    assert isinstance(derivative, gd.GradientTransform)
    assert derivative.learning_rate < 0


def test_plain_functions_and_transformations_are_wrapped():
    tx = gd.chain(optax.scale_by_lion(), gd.scale_by_learning_rate(lambda count: 0.1 / (1 + count)))
    assert repr(tx).startswith(
        "chain(opaque_transform(transformation=<GradientTransformation>), scale_by_learning_rate"
    )
    assert "opaque_schedule(f=<test_plain_functions" in repr(tx)
    assert tx == copy.copy(tx)
    assert jax.tree.leaves(tx) == []
    params, _ = jax.jit(lambda tx, params: run(tx, params))(tx, tree())
    theirs, _ = run(optax.chain(optax.scale_by_lion(), optax.scale_by_learning_rate(lambda c: 0.1 / (1 + c))), tree())
    assert_close(params, theirs, rtol=1e-5)
    with pytest.raises(gd.ParseError):
        gd.parse(repr(tx))
