"""However a batch is sharded over devices, the descent equals that of one device on the whole batch."""

import chex
import jax
import numpy as np
import pytest

import gdjax as gd
from tests.battery import OPTIMIZERS, WAYS, difference, in_this_process, on_one_device
from tests.processes import in_processes

SHARDED = {name: gd.shard_update(tx, "data") for name, tx in OPTIMIZERS.items() if name != "adafactor"}
"""Sharded updates of the optimizers that work on shards of leaves."""
OVER_AN_AXIS = ["vmap", "shard_map"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_way_equals_the_descent_of_one_device(name, way):
    tx = OPTIMIZERS[name]
    assert difference(WAYS[way](tx), on_one_device(tx)) <= 1e-6


@pytest.mark.parametrize("way", OVER_AN_AXIS)
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_updates_equal_those_of_one_device(name, way):
    assert difference(WAYS[way](SHARDED[name]), on_one_device(OPTIMIZERS[name])) <= 1e-6


@pytest.mark.parametrize("way", OVER_AN_AXIS)
@pytest.mark.parametrize("text", ["chain(mean_over('data'), adamw(1e-2))", "shard_update(adamw(1e-2), 'data')"])
@pytest.mark.parametrize("around", ["accumulate({}, 2)", "watch({})", "apply_if_finite({}, 2)", "params_ema({})"])
def test_wrapped_optimizers_over_an_axis_equal_those_of_one_device(around, text, way):
    tx = gd.parse(around.format(text))
    assert difference(WAYS[way](tx), on_one_device(gd.parse(around.format("adamw(1e-2)")))) <= 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pmap_and_shard_map_are_bitwise_equal(name):
    by_pmap, *others = (WAYS[way](OPTIMIZERS[name]) for way in ("pmap", "shard_map", "shard_map, unchecked"))
    for other in others:
        chex.assert_trees_all_equal(other, by_pmap)


@pytest.mark.parametrize("way", ["shard_map", "jit, Auto"])
def test_two_processes_of_four_devices_equal_one_device(way):
    first, second = in_processes(2, in_this_process, way, devices=8, timeout=240)
    assert first == second
    for name, tx in OPTIMIZERS.items():
        ours = jax.tree.map(np.float32, first[name], is_leaf=lambda x: isinstance(x, list))
        assert difference(ours, on_one_device(tx)) <= 1e-6, name
