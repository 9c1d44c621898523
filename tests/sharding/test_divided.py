"""Matrix methods over an axis give the numbers of one device, and devices send only results."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gdjax as gd
from benchmarks.hlo import collectives, counts
from tests.battery import difference

P = PartitionSpec
SHAPES = {"a": (16, 16), "b": (16, 16), "c": (16, 16), "d": (32, 8), "e": (8, 32), "l": (8, 8, 8), "v": (16,)}
"""A stack that no number of devices divides, one of two shapes, one sharded along its first axis, a vector."""
SQUARE = {name: SHAPES[name] for name in ("a", "b", "l")}
"""Other shapes have a factor without full rank at first, whose basis depends on rounding."""
METHODS = {
    "muon": (gd.scale_by_muon, SHAPES),
    "normuon": (gd.scale_by_normuon, SHAPES),
    "soap": (functools.partial(gd.scale_by_soap, every=2), SQUARE),
    "shampoo": (functools.partial(gd.scale_by_shampoo, eps=1e-6, every=2), SQUARE),
    "psgd_kron": (gd.scale_by_psgd_kron, SQUARE),
}
REPLICATED, SHARDED = "replicated", "sharded"
STEPS = 3


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def grads_of(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(STEPS, *shape)) for name, shape in shapes.items()}


def updates(tx, grads):
    """Return the updates of every step."""
    params = jax.tree.map(lambda g: g[0], grads)

    def step(state, g):
        update, state = tx.update(g, state, params)
        return state, update

    return jax.lax.scan(step, tx.init(params), grads)[1]


@functools.cache
def reference(name):
    make, shapes = METHODS[name]
    with jax.enable_x64(True):
        return jax.jit(functools.partial(updates, make()))(grads_of(shapes))


def over_the_axis(name, leaves):
    make, _ = METHODS[name]
    return make(axis_name="data", dim=0 if leaves == SHARDED else None)


def spec(leaves):
    return P(None, "data") if leaves == SHARDED else P()


def by_vmap(name, leaves):
    tx, grads = over_the_axis(name, leaves), grads_of(METHODS[name][1])
    if leaves == REPLICATED:
        each = jax.jit(jax.vmap(lambda _: updates(tx, grads), axis_name="data"))(jnp.arange(8))
        return jax.tree.map(lambda x: x[5], each)
    shards = jax.tree.map(lambda g: jnp.stack(jnp.split(g, 8, axis=1)), grads)
    each = jax.jit(jax.vmap(functools.partial(updates, tx), axis_name="data"))(shards)
    return jax.tree.map(lambda x: jnp.concatenate(x, axis=1), each)


def by_pmap(name, leaves):
    tx, grads = over_the_axis(name, leaves), grads_of(METHODS[name][1])
    if leaves == REPLICATED:
        return gd.unreplicate(jax.pmap(functools.partial(updates, tx), axis_name="data")(gd.replicate(grads)))
    shards = jax.tree.map(lambda g: np.stack(np.split(g, 8, axis=1)), grads)
    each = jax.pmap(functools.partial(updates, tx), axis_name="data")(shards)
    return jax.tree.map(lambda x: np.concatenate(x, axis=1), jax.device_get(each))


def by_shard_map(name, leaves, check_vma):
    run = functools.partial(updates, over_the_axis(name, leaves))
    leaf_spec = spec(leaves)
    mapped = jax.shard_map(run, mesh=mesh(), in_specs=leaf_spec, out_specs=leaf_spec, check_vma=check_vma)
    return jax.jit(mapped)(grads_of(METHODS[name][1]))


def by_jit(name, leaves, axis_type):
    device_mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(device_mesh):
        grads = jax.device_put(grads_of(METHODS[name][1]), NamedSharding(device_mesh, spec(leaves)))
        tx = jax.tree.map(jnp.asarray, over_the_axis(name, leaves))  # hyperparameters as arrays on the mesh, too
        return jax.jit(updates)(tx, grads)


def mesh():
    return Mesh(np.array(jax.devices()), ("data",))


WAYS = {
    "vmap": by_vmap,
    "pmap": by_pmap,
    "shard_map": functools.partial(by_shard_map, check_vma=True),
    "shard_map, unchecked": functools.partial(by_shard_map, check_vma=False),
    "jit, Auto": functools.partial(by_jit, axis_type=AxisType.Auto),
    "jit, Explicit": functools.partial(by_jit, axis_type=AxisType.Explicit),
}
METHODS_AND_WAYS = [
    (name, way) for name in METHODS for way in WAYS if name == "muon" or way in ("shard_map", "jit, Explicit")
]


@pytest.mark.parametrize("leaves", [REPLICATED, SHARDED])
@pytest.mark.parametrize(("name", "way"), METHODS_AND_WAYS)
def test_updates_over_an_axis_equal_those_of_one_device(name, way, leaves):
    assert difference(WAYS[way](name, leaves), reference(name)) <= 1e-6


@pytest.mark.parametrize(("leaves", "expected"), [(REPLICATED, {"all-gather": 1}), (SHARDED, {"all-to-all": 2})])
@pytest.mark.parametrize(
    ("name", "axis_type"), [("muon", AxisType.Auto), *((name, AxisType.Explicit) for name in METHODS)], ids=str
)
def test_a_step_sends_results_once_and_nothing_in_between(name, leaves, expected, axis_type):
    device_mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    leaf_spec = P("data") if leaves == SHARDED else P()
    tx = over_the_axis(name, leaves)
    with jax.set_mesh(device_mesh):
        params = jax.device_put(
            {n: np.zeros(s, np.float32) for n, s in METHODS[name][1].items()}, NamedSharding(device_mesh, leaf_spec)
        )
        state = jax.eval_shape(jax.jit(tx.init), params)
        found = collectives(jax.jit(tx.update).lower(params, state, params).compile())
    assert counts(found) == expected
    assert all(one.within == () for one in found)


def test_each_of_eight_devices_has_an_eighth_of_the_work_and_of_the_state():
    grads = {f"w{i}": jnp.zeros((64, 64), jnp.float32) for i in range(16)}

    def flops(tx):
        mapped = jax.shard_map(lambda g: tx.update(g, tx.init(g))[0], mesh=mesh(), in_specs=P(), out_specs=P())
        return jax.jit(mapped).lower(grads).compile().cost_analysis()["flops"]

    assert flops(gd.scale_by_muon(axis_name="data")) <= flops(gd.scale_by_muon()) / 8 * 1.1
    tx = gd.scale_by_soap(axis_name="data")
    stacks = jax.shard_map(lambda g: tx.init(g).stacks, mesh=mesh(), in_specs=P(), out_specs=P("data"))(grads)
    assert {x.shape[0] for x in jax.tree.leaves(stacks)} == {16}
    assert {x.addressable_shards[0].data.shape[0] for x in jax.tree.leaves(stacks)} == {2}


def test_momentum_keeps_the_sharding_of_its_parameters():
    device_mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    tx = gd.scale_by_muon(axis_name="data", dim=0)
    with jax.set_mesh(device_mesh):
        params = jax.device_put({"w": np.ones((16, 16), np.float32)}, NamedSharding(device_mesh, P("data")))
        state = gd.sharding.init(tx, params)
        assert state.mu["w"].sharding.spec == P("data", None)
        step = jax.jit(tx.update)
        _, after = step(params, state, params)
        assert after.mu["w"].sharding.spec == P("data", None)
        sent = collectives(step.lower(params, state, params).compile())
    assert [one.kind for one in sent] == ["all-to-all"] * 2
    assert all(one.operand_bytes == 8 * 2 * 16 * 4 for one in sent)  # one slot of 2 rows per device


def test_per_device_updates_and_indivisible_views_are_refused():
    tx = gd.scale_by_muon(axis_name="data")
    step = jax.shard_map(lambda g: tx.update(g, tx.init(g))[0], mesh=mesh(), in_specs=P("data"), out_specs=P("data"))
    with pytest.raises(
        ValueError, match="scale_by_muon: updates at 'w' must be the same on all devices of the axis 'data'"
    ):
        step({"w": jnp.ones((16, 4))})
    views = {"w": "m (qkv=3 n) -> qkv m n"}
    tx = gd.scale_by_muon(axis_name="data", dim=1, views=views)
    step = jax.shard_map(
        lambda g: tx.update(g, tx.init(g))[0], mesh=mesh(), in_specs=P(None, "data"), out_specs=P(None, "data")
    )
    with pytest.raises(ValueError, match="at 'w', 8 devices must divide the axis of size 3, the first of dimension 1"):
        step({"w": jnp.ones((4, 24))})


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_fit_over_a_mesh_gives_the_losses_of_one_device(axis_type):
    problem = gd.problems.digits()
    with jax.enable_x64(False):
        start = problem.init(jax.random.key(0))
        run = functools.partial(gd.fit, problem.loss, start, batch_size=64, steps=5, progress=False)
        device_mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
        ours = run(tx=gd.muon(0.02, 3e-3, axis_name="data"), data=problem.train, mesh=device_mesh)
        reference = run(tx=gd.muon(0.02, 3e-3), data=problem.train)
    np.testing.assert_allclose(ours.history["loss"], reference.history["loss"], rtol=1e-5)


def test_a_step_on_batch_shards_equals_a_step_on_the_whole_batch():
    problem = gd.problems.digits()
    images, labels = (x[:64] for x in problem.train)
    state = gd.State.create(problem.init(jax.random.key(0)), gd.muon(0.02, 3e-3))
    on_one_device, _ = jax.jit(gd.make_step(problem.loss, gd.muon(0.02, 3e-3)))(state, (images, labels))
    member = gd.make_step(problem.loss, gd.muon(0.02, 3e-3, axis_name="data"), axis_name="data")
    each = jax.vmap(member, in_axes=(None, 0), axis_name="data")
    sharded, _ = jax.jit(each)(state, (images.reshape(8, 8, 64), labels.reshape(8, 8)))
    expected = jax.tree.map(lambda x, one: np.broadcast_to(one, x.shape), sharded.params, on_one_device.params)
    chex.assert_trees_all_close(sharded.params, expected, rtol=1e-5, atol=1e-6)
