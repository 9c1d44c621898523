"""One small descent, run in every way that a batch can be sharded over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gdjax as gd

OPTIMIZERS = {
    "sgd": gd.sgd(0.05),
    "momentum": gd.sgd(0.05, momentum=0.9),
    "adamw": gd.adamw(1e-2),
    "clip + adamw": gd.chain(gd.clip_by_global_norm(0.1), gd.adamw(1e-2)),
    "lamb": gd.lamb(1e-2, weight_decay=0.1),
    "adafactor": gd.adafactor(1e-2, min_dim_size_to_factor=2),
    "lion": gd.lion(1e-3),
    "schedule_free": gd.schedule_free_adamw(1e-2, warmup_steps=2),
}
STEPS = 5
MEMBERS = 8


def start():
    """Return the parameters of a network with one hidden layer."""
    rng = np.random.default_rng(0)
    return {
        "hidden": {"w": jnp.asarray(rng.normal(size=(8, 16)), jnp.float32), "b": jnp.zeros(16)},
        "out": {"w": jnp.asarray(rng.normal(size=(16, 4)), jnp.float32), "b": jnp.full(4, 0.1)},
    }


def data():
    """Return a batch of 64 examples."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(64, 8)).astype(np.float32), rng.normal(size=(64, 4)).astype(np.float32)


def parts():
    """Return the same batch as equal shards, stacked along a new first axis."""
    return jax.tree.map(lambda x: x.reshape(MEMBERS, -1, *x.shape[1:]), data())


def loss(params, batch):
    """Mean squared error."""
    x, y = batch
    hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return jnp.mean(jnp.square(hidden @ params["out"]["w"] + params["out"]["b"] - y))


def descent(tx, axis_name=None):
    """Return a function of parameters and a batch that takes all steps and returns the parameters."""
    step = gd.make_step(loss, tx, axis_name=axis_name)

    def descended(params, batch):
        state = gd.State.create(params, tx)
        return jax.lax.scan(lambda state, _: (step(state, batch)[0], None), state, length=STEPS)[0].params

    return descended


def on_one_device(tx):
    """Run the descent on the whole batch on one device."""
    return jax.jit(descent(tx))(start(), data())


def by_vmap(tx):
    """Simulate a cluster on one device."""
    each = jax.jit(jax.vmap(descent(tx, "data"), in_axes=(None, 0), axis_name="data"))(start(), parts())
    return jax.tree.map(lambda x: x[MEMBERS // 2], each)


def by_pmap(tx):
    """Use one device per shard."""
    each = jax.pmap(descent(tx, "data"), axis_name="data")(gd.replicate(start()), parts())
    return gd.unreplicate(each)


def by_shard_map(tx, *, check_vma):
    """Use one device of a mesh per shard."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    specs = {"in_specs": (PartitionSpec(), PartitionSpec("data")), "out_specs": PartitionSpec()}
    return jax.jit(jax.shard_map(descent(tx, "data"), mesh=mesh, check_vma=check_vma, **specs))(*_placed(mesh))


def by_jit(tx, *, axis_type):
    """Let XLA partition the work by shardings."""
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        return jax.jit(descent(tx))(*_placed(mesh))


def _placed(mesh):
    params = jax.device_put(jax.tree.map(np.asarray, start()), NamedSharding(mesh, PartitionSpec()))
    return params, jax.device_put(data(), NamedSharding(mesh, PartitionSpec("data")))


WAYS = {
    "vmap": by_vmap,
    "pmap": by_pmap,
    "shard_map": functools.partial(by_shard_map, check_vma=True),
    "shard_map, unchecked": functools.partial(by_shard_map, check_vma=False),
    "jit, Auto": functools.partial(by_jit, axis_type=AxisType.Auto),
    "jit, Explicit": functools.partial(by_jit, axis_type=AxisType.Explicit),
}


def difference(ours, theirs):
    """Return the largest difference of two trees in any leaf, relative to the largest number of that leaf."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.abs(np.asarray(a, float) - b).max() / np.abs(b).max()) for a, b in pairs)


def in_this_process(way):
    """Return the final parameters of every optimizer in one of the processes, as lists."""
    return {name: jax.tree.map(lambda x: np.asarray(x).tolist(), WAYS[way](tx)) for name, tx in OPTIMIZERS.items()}
