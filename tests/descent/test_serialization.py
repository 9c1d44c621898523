"""States as bytes (Flax, safetensors, exported programs), and optimizers themselves as leaves, copies and pickles."""

import contextlib
import copy
import functools
import io
import pickle
import subprocess
import sys
from collections import OrderedDict

import chex
import cloudpickle
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import serialization
from flax.training.train_state import TrainState
from jax import export
from safetensors import flax as safetensors

import gdjax as gd
from gdjax import tree

PARAMS = {"dense": {"kernel": jnp.linspace(1.0, 3.0, 6).reshape(3, 2), "bias": jnp.array([1.0, -2.0])}}
RATE = gd.warmup_cosine(0.1, 2, 10)


def matrices(params):
    return jax.tree.map(lambda p: p.ndim == 2, params)


@gd.transform
def half(by: gd.Scalar = 2.0):
    return gd.scale(1 / by)


STATES = {
    "adamw": gd.adamw(RATE),
    "by_path": gd.by_path({r".*/[^/.]*l$": gd.adamw(0.1), ".*": gd.sgd(0.1, momentum=0.9)}),
    "watch": gd.watch(gd.adamw(0.1, mu_dtype=jnp.bfloat16), "all"),
    "masked": gd.masked(gd.adam(0.1), matrices),
    "named_chain": gd.named_chain(("clip", gd.clip_by_global_norm(1.0)), ("adam", gd.adam(RATE))),
}
VALUES = STATES | {
    "arrays": gd.stack([gd.adamw(0.1), gd.adamw(0.2)]),
    "chain": gd.chain(gd.clip(1.0), gd.adam(RATE), gd.scale_by_schedule(gd.cosine_decay_schedule(1.0, 10))),
    "lifted": gd.chain(gd.lamb(0.1), gd.lift(optax.contrib.prodigy)(betas=(0.8, 0.9)), gd.muon(RATE)),
    "custom": gd.chain(half(4.0), half(gd.adam(0.1).b1)),
}


def after_a_step(tx):
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[1]


def plain(state):
    """Turn the OrderedDict of named_chain into a dict: Flax serializes named tuples and dicts only."""
    return dict(state) if isinstance(state, OrderedDict) else state


assert_same = functools.partial(chex.assert_trees_all_equal, strict=True)


def by_bytes(like, state):
    return serialization.from_bytes(like, serialization.to_bytes(state))


def by_state_dict(like, state):
    return serialization.from_state_dict(like, serialization.to_state_dict(state))


@pytest.mark.parametrize("passed", [by_bytes, by_state_dict])
@pytest.mark.parametrize("value", STATES)
def test_flax_restores_a_state(value, passed):
    tx = STATES[value]
    state = plain(after_a_step(tx))
    assert_same(passed(plain(tx.init(PARAMS)), state), state)


def test_flax_restores_a_train_state():
    fresh = TrainState.create(apply_fn=None, params=PARAMS, tx=gd.watch(gd.adamw(RATE)))
    state = fresh.apply_gradients(grads=PARAMS)
    assert_same(by_bytes(fresh, state), state)


@pytest.mark.parametrize("value", STATES)
def test_safetensors_restores_a_state_by_the_paths_of_its_leaves(value, tmp_path):
    state = after_a_step(STATES[value])
    named = dict(tree.leaves_with_paths(state))
    assert len(named) == len(jax.tree.leaves(state))
    safetensors.save_file(named, tmp_path / "state.safetensors")
    loaded = safetensors.load_file(tmp_path / "state.safetensors")
    assert_same(tree.map_paths(lambda path: loaded[path], state), state)


@pytest.fixture
def exportable():
    """Register the named tuples of states for `jax.export`, as users do."""
    pytest.importorskip("flatbuffers", reason="jax.export writes its files with flatbuffers")
    kinds = ("EmptyState", "MaskedNode", "MaskedState", "ScaleByAdamState", "ScaleByScheduleState", "TraceState")
    for kind in (*(getattr(optax, kind) for kind in kinds), optax.transforms.PartitionState, gd.WatchState):
        with contextlib.suppress(ValueError):  # registered already
            export.register_namedtuple_serialization(kind, serialized_name=f"tests.{kind.__name__}")


@pytest.mark.usefixtures("exportable")
@pytest.mark.parametrize("value", STATES)
def test_an_exported_update_makes_the_same_step(value):
    tx = STATES[value]
    arguments = PARAMS, after_a_step(tx), PARAMS
    update = jax.jit(tx.update)
    program = export.deserialize(export.export(update)(*arguments).serialize())
    assert_same(program.call(*arguments), update(*arguments))


@pytest.mark.usefixtures("exportable")
def test_an_exported_update_accepts_another_learning_rate():
    leaves, treedef = jax.tree.flatten(gd.adamw(0.1))
    update = jax.jit(lambda leaves, *arguments: treedef.unflatten(leaves).update(*arguments))
    arguments = PARAMS, gd.adamw(0.1).init(PARAMS), PARAMS
    program = export.deserialize(export.export(update)(leaves, *arguments).serialize())
    updates, _ = program.call(jax.tree.leaves(gd.adamw(0.3)), *arguments)
    expected, _ = optax.adamw(0.3).update(*arguments)
    chex.assert_trees_all_close(updates, expected, rtol=3e-5)


def by_flattening(tx):
    leaves, treedef = jax.tree.flatten(tx)
    return jax.tree.unflatten(treedef, leaves)


def by_equinox(tx):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, tx)
    file.seek(0)
    return eqx.tree_deserialise_leaves(file, jax.tree.map(lambda leaf: leaf * 0, tx))


def by_pickle(tx):
    return pickle.loads(pickle.dumps(tx))


def by_cloudpickle(tx):
    return cloudpickle.loads(cloudpickle.dumps(tx))


WAYS = [by_flattening, by_equinox, copy.copy, copy.deepcopy, by_pickle, by_cloudpickle]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", VALUES)
def test_a_copy_of_an_optimizer_equals_it(value, way):
    tx = VALUES[value]
    copied = way(tx)
    assert copied == tx
    assert copied.factory == tx.factory
    assert isinstance(copied, optax.GradientTransformationExtraArgs)
    assert jax.tree.structure(copied) == jax.tree.structure(tx)
    if value != "arrays":
        assert hash(copied) == hash(tx)
        assert_same(after_a_step(copied), after_a_step(tx))


def test_another_process_reads_a_pickled_optimizer():
    tx = gd.by_path({"head": VALUES["lifted"], ".*": VALUES["chain"]})
    read = "import pickle, sys; print(pickle.load(sys.stdin.buffer))"
    printed = subprocess.run([sys.executable, "-c", read], input=pickle.dumps(tx), capture_output=True, check=True)
    assert printed.stdout.decode().strip() == repr(tx)


def test_cloudpickle_saves_a_transform_defined_in_a_function():
    @gd.transform
    def climb(rate: gd.Scalar = 2.0):
        return gd.scale(rate)

    copied = by_cloudpickle(gd.chain(climb(3.0), gd.sgd(optax.linear_schedule(1.0, 0.0, 4))))
    updates, state = copied.update(PARAMS, copied.init(PARAMS))
    updates, _ = copied.update(updates, state)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda p: 3 * 3 * 0.75 * p, PARAMS), rtol=1e-6)


STOP = gd.stop
CRITERIA = [
    STOP.target("loss", below=1.0), STOP.plateau(3, metric="loss"), STOP.tolerance(grad_norm=0.1), STOP.steps(2),
    STOP.seconds(1), STOP.nonfinite(2), STOP.plateau(3) | STOP.steps(2) & STOP.seconds(9),
]  # fmt: skip


@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
def test_criteria_are_pickled_and_copied(criterion):
    seen = {"loss": jnp.asarray(0.5), "grad_norm": jnp.asarray(0.05), "step": jnp.asarray(2), "seconds": 2.0}
    for copied in (by_pickle(criterion), copy.deepcopy(criterion), by_pickle(by_pickle(criterion))):
        assert copied == criterion
        assert copied.watched == criterion.watched
        states = [of.update(of.init(), seen) for of in (copied, criterion)]
        assert copied.met(states[0]) == criterion.met(states[1])
        assert copied.because(states[0]) == criterion.because(states[1])


def test_public_values_and_functions_are_pickled():
    values = [gd.Evaluate(gd.global_norm, every=3), gd.Checkpoints("run"), gd.Interval("[0, 1)"), gd.jordan_scale()]
    values += [gd.Stopped.STEPS, gd.ParseError("x"), gd.describe(gd.adam(0.1), {"w": jnp.ones(2)}), gd.adam(0.1).update]
    values += [getattr(gd.losses, name) for name in dir(gd.losses) if hasattr(getattr(gd.losses, name), "__wrapped__")]
    values += [getattr(gd.tree, name) for name in dir(optax.tree) if not name.startswith("_")]
    values += [
        gd.safe_norm,
        gd.safe_root_mean_squares,
        gd.fit,
        gd.make_step,
        gd.descend,
        gd.apply_updates,
        STOP.plateau,
    ]
    for factory in gd.problems.factories().values():
        problem = factory()
        values += [problem, problem.init, problem.loss, *problem.metrics.values()]
    for value in values:
        copied = by_pickle(value)
        assert copied == value or type(copied) is type(value), value
    multi = by_pickle(gd.MultiSteps(gd.sgd(1.0), 2))
    assert multi.update(1.0, multi.init(0.0), 0.0)[1].mini_step == 1
    assert problem.init == by_pickle(problem.init)
