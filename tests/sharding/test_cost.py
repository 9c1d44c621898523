"""The page on scale says what is so: its bytes are those of compiled programs, its tables those of its model."""

import functools
import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gdjax as gd
from benchmarks.hlo import collectives
from tests import battery

HERE = pathlib.Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("cost", HERE / "benchmarks" / "cost.py")
cost = sys.modules["cost"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cost)

SHAPES = {"a": (256, 512), "b": (512, 256)}
PARAMETERS = 2 * 256 * 512
OF_BYTES = cost.Network("no latency", 1.0, 0.0)
"""Where a byte takes a second: times are bytes."""
MODEL = cost.Model("two matrices", PARAMETERS, 2 * (256 + 512), 0.0)
METHODS = {
    "synchronous": gd.mean_over("data"),
    "`shard_update`": gd.shard_update(gd.sgd(0.1), "data"),
    "`quantized_mean`": gd.quantized_mean("data"),
    "`low_rank_mean(rank=4)`": gd.low_rank_mean("data", rank=4),
}


def sent(tx, members):
    """Bytes that a member sends at a step, as the compiled program has it."""
    mesh = Mesh(np.array(jax.devices()[:members]), ("data",))

    def mean(grads):
        own = jax.tree.map(lambda g: g[0], grads)
        return tx.update(own, tx.init(own), own)[0]

    rows = NamedSharding(mesh, PartitionSpec("data"))
    run = jax.jit(
        jax.shard_map(mean, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(), check_vma=False)
    )
    grads = {
        name: jax.ShapeDtypeStruct((members, *shape), jnp.float32, sharding=rows) for name, shape in SHAPES.items()
    }
    return sum(one.wire_bytes for one in collectives(run.lower(grads).compile()))


@pytest.mark.parametrize("members", [2, 4, 8])
@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_of_the_model_are_those_of_the_program(method, members):
    said = cost.METHODS[method](MODEL, members, OF_BYTES)
    assert sent(METHODS[method], members) == pytest.approx(said, rel=1e-9)


def test_steps_apart_send_the_mean_of_one_in_so_many():
    said = cost.METHODS["`local_steps(every=64)`"](MODEL, 8, OF_BYTES)
    assert said == pytest.approx(sent(gd.mean_over("data"), 8) / 64)


def test_one_member_sends_nothing():
    assert all(seconds(cost.MODEL, 1, cost.NETWORKS[0]) == 0 for seconds in cost.METHODS.values())


def test_the_page_has_the_tables_of_the_model():
    assert cost.page() in (HERE / "docs" / "scale.md").read_text()


@pytest.mark.parametrize("tx", [gd.adamw(1e-2), gd.shard_update(gd.adamw(1e-2), "data")], ids=["adamw", "sharded"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_what_the_page_shows_runs(kind, tx):
    shown = (HERE / "docs" / "scale.md").read_text().split("```python\n")[2].split("```")[0]
    there = {"gd": gd, "jax": jax, "functools": functools, "P": PartitionSpec, "NamedSharding": NamedSharding}
    there |= {"mesh": jax.make_mesh((8,), ("data",), axis_types=(kind,)), "tx": tx}
    there |= {"loss": battery.loss, "params": battery.start(), "batch": battery.data()}
    exec(shown, there)
    state = there["state"]
    for _ in range(battery.STEPS - 1):
        state, _ = there["take_step"](state, jax.device_put(there["batch"], there["state"].count.sharding))
    ours = jax.tree.map(lambda x: np.asarray(x)[3], state.params)
    assert battery.difference(ours, battery.on_one_device(gd.adamw(1e-2))) <= 1e-6
