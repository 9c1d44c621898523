"""Check docs/scale.md: its bytes against compiled programs, its tables against the cost model."""

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
ONE_SECOND_PER_BYTE = cost.Network("no latency", 1.0, 0.0)
"""A network where each byte takes one second, so times are byte counts."""
MODEL = cost.Model("two matrices", PARAMETERS, 2 * (256 + 512), 0.0)
METHODS = {
    "synchronous": gd.mean_over("data"),
    "`shard_update`": gd.shard_update(gd.sgd(0.1), "data"),
    "`quantized_mean`": gd.quantized_mean("data"),
    "`low_rank_mean(rank=4)`": gd.low_rank_mean("data", rank=4),
}


def sent(tx, members):
    """Return the bytes that a device sends in one compiled step."""
    mesh = Mesh(np.array(jax.devices()[:members]), ("data",))

    def mean(grads):
        local_grads = jax.tree.map(lambda g: g[0], grads)
        return tx.update(local_grads, tx.init(local_grads), local_grads)[0]

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
def test_modelled_bytes_equal_those_of_the_compiled_program(method, members):
    modelled = cost.METHODS[method](MODEL, members, ONE_SECOND_PER_BYTE)
    assert sent(METHODS[method], members) == pytest.approx(modelled, rel=1e-9)


def test_local_steps_send_one_mean_every_64_steps():
    modelled = cost.METHODS["`local_steps(every=64)`"](MODEL, 8, ONE_SECOND_PER_BYTE)
    assert modelled == pytest.approx(sent(gd.mean_over("data"), 8) / 64)


def test_one_device_sends_nothing():
    assert all(seconds(cost.MODEL, 1, cost.NETWORKS[0]) == 0 for seconds in cost.METHODS.values())


def test_the_page_has_the_tables_of_the_model():
    assert cost.page() in (HERE / "docs" / "scale.md").read_text()


@pytest.mark.parametrize("tx", [gd.adamw(1e-2), gd.shard_update(gd.adamw(1e-2), "data")], ids=["adamw", "sharded"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_the_code_of_the_page_runs_and_matches_one_device(kind, tx):
    snippet = (HERE / "docs" / "scale.md").read_text().split("```python\n")[2].split("```")[0]
    namespace = {"gd": gd, "jax": jax, "functools": functools, "P": PartitionSpec, "NamedSharding": NamedSharding}
    namespace |= {"mesh": jax.make_mesh((8,), ("data",), axis_types=(kind,)), "tx": tx}
    namespace |= {"loss": battery.loss, "params": battery.start(), "batch": battery.data()}
    exec(snippet, namespace)
    state = namespace["state"]
    for _ in range(battery.STEPS - 1):
        state, _ = namespace["take_step"](state, jax.device_put(namespace["batch"], namespace["state"].count.sharding))
    ours = jax.tree.map(lambda x: np.asarray(x)[3], state.params)
    assert battery.difference(ours, battery.on_one_device(gd.adamw(1e-2))) <= 1e-6
