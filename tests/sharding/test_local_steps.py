"""Local steps with synchronization: local SGD and DiLoCo as in the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import gdjax as gd
from benchmarks.hlo import collectives
from tests.battery import descent, difference, loss, on_one_device, parts, start

DILOCO = gd.local_steps(gd.adamw(1e-2), gd.sgd(0.7, momentum=0.9, nesterov=True), every=3, axis_name="data")


def on_each_device(tx):
    return jax.vmap(descent(tx, "data"), in_axes=(None, 0), axis_name="data")(start(), parts())


def test_synchronizing_at_every_step_is_synchronous_descent():
    tx = gd.local_steps(gd.sgd(0.05), gd.sgd(1.0), every=1, axis_name="data")
    assert difference(jax.tree.map(lambda x: x[3], on_each_device(tx)), on_one_device(gd.sgd(0.05))) <= 1e-6


@pytest.mark.parametrize("nesterov", [True, False])
def test_anchor_and_parameters_match_the_paper(nesterov):
    """Run Douillard et al. 2023, algorithm 1, line by line in float64: inner SGD, outer momentum."""
    rng = np.random.default_rng(0)
    targets, rate, outer_rate, decay, every = rng.normal(size=(4, 3)), 0.1, 0.7, 0.9, 3
    theta, momentum = np.zeros(3), np.zeros(3)
    for _ in range(4):
        workers = np.tile(theta, (4, 1))
        for _ in range(every):
            workers -= rate * (workers - targets)
        outer_gradient = np.mean(theta - workers, axis=0)
        momentum = decay * momentum + outer_gradient
        theta = theta - outer_rate * (outer_gradient + decay * momentum if nesterov else momentum)
    tx = gd.local_steps(gd.sgd(rate), gd.sgd(outer_rate, decay, nesterov), every, "data")

    def descended(target):
        params = jnp.zeros(3)
        state = tx.init(params)
        for _ in range(4 * every):
            params, state = gd.descend(tx, params - target, state, params)
        return params, state.anchor

    with jax.enable_x64(True):
        params, anchor = jax.vmap(descended, axis_name="data")(jnp.asarray(targets))
    np.testing.assert_allclose(anchor, [theta] * 4, rtol=1e-12)
    np.testing.assert_allclose(params, [theta] * 4, rtol=1e-12)


def test_parameters_differ_between_devices_until_they_synchronize():
    step = gd.make_step(loss, DILOCO, axis_name="data")
    spread = []

    def descended(batch):
        state, seen = gd.State.create(start(), DILOCO), []
        for _ in range(6):
            state, metrics = step(state, batch)
            seen.append((state.params["out"]["w"], metrics["loss"]))
        return seen

    for weights, losses in jax.vmap(descended, axis_name="data")(parts()):
        spread.append(float(jnp.ptp(weights, axis=0).max()))
        assert float(jnp.std(losses)) > 0  # losses stay per-device: nothing is sent for them
    assert spread[2] == spread[5] == 0 < 1e-4 < min(spread[i] for i in (0, 1, 3, 4))


@pytest.mark.parametrize("way", ["pmap", "shard_map"])
def test_devices_communicate_only_when_they_synchronize(way):
    step = gd.make_step(loss, DILOCO, axis_name="data")
    state = jax.pmap(lambda params: gd.State.create(params, DILOCO), axis_name="data")(gd.replicate(start()))
    if way == "pmap":
        run = jax.pmap(step, axis_name="data")
    else:
        spec, mesh = PartitionSpec("data"), Mesh(np.array(jax.devices()), ("data",))

        def unstacked(state, batch):
            new_state, _ = step(*jax.tree.map(lambda x: x[0], (state, batch)))
            return jax.tree.map(lambda x: x[None], new_state)

        run = jax.jit(jax.shard_map(unstacked, mesh=mesh, in_specs=spec, out_specs=spec))
    found = collectives(run.lower(state, parts()).compile())
    assert found
    assert all(one.kind == "all-reduce" and one.within == ("conditional",) for one in found)


def test_the_state_keeps_its_type_when_parameters_are_varying():
    mesh, spec = Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data")
    step = gd.make_step(loss, DILOCO, axis_name="data")

    def descended(batch):
        state = gd.State.create(jax.lax.pcast(start(), "data", to="varying"), DILOCO)
        state, _ = jax.lax.scan(lambda state, _: (step(state, batch)[0], None), state, length=6)
        return jax.tree.map(lambda x: x[None], state.params)

    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts())
    ours = jax.jit(jax.shard_map(descended, mesh=mesh, in_specs=spec, out_specs=spec))(batch)
    expected = jax.vmap(descend_on_one_device(step, 6), axis_name="data")(parts())
    assert difference(ours, expected) <= 2e-6


def descend_on_one_device(step, number):
    def descended(batch):
        state = gd.State.create(start(), DILOCO)
        return jax.lax.scan(lambda state, _: (step(state, batch)[0], None), state, length=number)[0].params

    return descended


def test_apply_updates_and_descend_give_the_same_parameters():
    def descended(target, step):
        params = jnp.ones(3)
        state = DILOCO.init(params)
        for _ in range(7):
            params, state = step(params - target, state, params)
        return params

    def added(grads, state, params):
        updates, state = DILOCO.update(grads, state, params)
        return gd.apply_updates(params, updates), state

    targets = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    ways = (added, lambda *of: gd.descend(DILOCO, *of))
    ours, theirs = (jax.vmap(lambda t, way=way: descended(t, way), axis_name="data")(targets) for way in ways)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_eval_params_returns_the_anchor():
    def read(w):
        state = DILOCO.init(w)._replace(anchor=w + 1.0)
        return gd.eval_params(DILOCO, state, w)

    np.testing.assert_array_equal(jax.vmap(read, axis_name="data")(jnp.zeros((2, 3))), np.ones((2, 3)))


def test_bfloat16_parameters_have_a_float32_anchor():
    tx = gd.local_steps(gd.sgd(0.1), gd.sgd(1.0), 2, "data")
    state = jax.vmap(lambda w: tx.init(w), axis_name="data")(jnp.ones((2, 3), jnp.bfloat16))
    assert state.anchor.dtype == jnp.float32


@pytest.mark.parametrize("every", [0, -1, True, 2.5])
def test_every_must_be_a_positive_integer(every):
    with pytest.raises((TypeError, ValueError), match="local_steps: every must be an integer"):
        gd.local_steps(gd.sgd(0.1), gd.sgd(1.0), every, "data")


def test_a_mean_at_every_step_is_refused_within_it():
    inner = gd.chain(gd.mean_over("data"), gd.adamw(0.1))
    with pytest.raises(ValueError, match=r"local_steps: inner must keep gradients per-device over 'data'"):
        gd.local_steps(inner, gd.sgd(1.0), 4, "data")


def test_local_steps_needs_parameters_and_a_bound_axis():
    tx = gd.local_steps(gd.sgd(0.1), gd.sgd(1.0), 2, "data")
    with pytest.raises(ValueError, match="local_steps: the axis 'data' must be bound"):
        tx.init(jnp.ones(2))
    with pytest.raises(ValueError, match="local_steps needs the parameters"):
        jax.vmap(lambda g: tx.update(g, tx.init(g)), axis_name="data")(jnp.ones((2, 3)))
