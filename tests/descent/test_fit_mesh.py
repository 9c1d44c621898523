"""A descent over a mesh gives the results of one device, and its arrays have the right shardings."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax as gd
from gdjax.descent.data.placement import Placement
from tests.network import loss, network_data

X, Y, START = network_data(16)
ADAM = gd.adamw(1e-2)


def fit(params=START, tx=ADAM, data=(X, Y), **options):
    return gd.fit(loss, params, tx, data, **{"batch_size": 8, "steps": 30, "progress": False} | options)


def mesh(*shape, names=("data", "model"), kind=AxisType.Auto):
    return jax.make_mesh(shape, names[: len(shape)], axis_types=(kind,) * len(shape))


def assert_close_runs(ours, theirs, rtol=1e-5):
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=rtol)
    chex.assert_trees_all_close(ours.params, theirs.params, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def on_one_device():
    return fit()


MESHES = {
    "8": lambda: mesh(8),
    "4x2": lambda: mesh(4, 2),
    "explicit": lambda: mesh(8, kind=AxisType.Explicit),
    "over one axis": lambda: NamedSharding(mesh(4, 2), P("data")),
    "over both, transposed": lambda: NamedSharding(mesh(4, 2), P(("model", "data"))),
    "two devices": lambda: Mesh(np.array(jax.devices()[:2]), ("data",)),
}


@pytest.mark.parametrize("kind", MESHES)
def test_losses_over_a_mesh_match_one_device(on_one_device, kind):
    assert_close_runs(fit(mesh=MESHES[kind]()), on_one_device)


@pytest.mark.parametrize("options", [{"batch_size": 40}, {"batch_size": 16, "drop_remainder": False}], ids=str)
def test_the_order_of_examples_matches_one_device(options):
    data = X[:40], Y[:40]
    over_mesh = fit(data=data, mesh=mesh(8), **options)
    assert_close_runs(over_mesh, fit(data=data, **options))


def fsdp(grid):
    """Return parameters that are sharded over all devices."""
    specs = {"w1": P(None, "data"), "w2": P("data")}
    return {name: jax.device_put(START[name], NamedSharding(grid, spec)) for name, spec in specs.items()}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_parameters_stay_sharded_and_so_does_the_state(on_one_device, kind):
    done = fit(fsdp(grid := mesh(8, kind=kind)), mesh=grid, checkpoint=None)
    assert_close_runs(done, on_one_device)
    for tree in (done.state.params, done.state.opt_state[0].mu, done.state.opt_state[0].nu):
        assert tree["w1"].sharding.shard_shape((6, 16)) == (6, 2)
        assert tree["w2"].sharding.shard_shape((16,)) == (2,)
    assert done.state.count.sharding.is_fully_replicated


def zero(grid, params=None):
    """Return a state whose moments are sharded and whose parameters are replicated."""
    params = jax.device_put(params or START, NamedSharding(grid, P()))
    opt_state = gd.sharding.init(ADAM, params, gd.sharding.zero(ADAM, params))
    key, _ = jax.random.split(jax.random.key(0))
    return gd.State(params, opt_state, jnp.zeros((), jnp.int32), key, None)


def test_a_sharded_state_stays_sharded(on_one_device):
    done = fit(zero(grid := mesh(8)), mesh=grid)
    assert_close_runs(done, on_one_device)
    mu = done.state.opt_state[0].mu
    assert mu["w1"].sharding.shard_shape((6, 16)) == (6, 2)
    assert mu["w2"].sharding.shard_shape((16,)) == (2,)
    assert done.state.params["w1"].sharding.is_fully_replicated


def test_a_descent_from_a_sharded_state_is_traced_once(monkeypatch):
    traced = []
    many = gd.descent.loop.program.Program.take_steps
    monkeypatch.setattr(gd.descent.loop.program.Program, "take_steps", lambda *a: traced.append(1) or many(*a))
    grid = mesh(8)
    fit(zero(grid), gd.adamw(1e-2, b1=0.8), mesh=grid, evaluate=gd.Evaluate(lambda p: p["w2"].sum(), every=3))
    assert len(traced) == 1


def test_data_are_sharded_by_rows_and_padded():
    placement = Placement.of(mesh(8))
    x, y = placement.shard_rows((X, Y))
    assert x.shape == (48, 6)
    assert {shard.data.shape for shard in x.addressable_shards} == {(6, 6)}
    assert {shard.data.shape for shard in y.addressable_shards} == {(6,)}
    np.testing.assert_array_equal(x[:42], X)


ROWS_OF_EVERY_DTYPE = {
    "signs": np.where(np.arange(42) % 2, -0.0, 0.0).astype(np.float32),
    "not finite": np.where(np.arange(42) % 3, np.nan, np.inf).astype(np.float32),
    "halves": np.arange(42, dtype=jnp.bfloat16),
    "bytes": np.arange(42, dtype=np.uint8).reshape(42, 1, 1),
    "truths": np.arange(42) % 2 == 0,
    "complex": ((np.arange(42) - 9) * (-0.0 + 2j)).astype(np.complex64),
    "numbers": -np.arange(84, dtype=np.int32).reshape(42, 2),
}


@pytest.mark.parametrize("kind", MESHES)
def test_gathered_rows_are_bitwise_equal_on_every_mesh(kind):
    placement = Placement.of(MESHES[kind]())
    rows = np.random.default_rng(0).permutation(42)[:16]
    data = {**ROWS_OF_EVERY_DTYPE, "keys": jax.random.split(jax.random.key(0), 42)}
    gathered = jax.jit(placement.gather_rows)(placement.shard_rows(data), rows)
    for name, x in ROWS_OF_EVERY_DTYPE.items():
        assert np.asarray(gathered[name]).tobytes() == x[rows].tobytes(), name
        assert gathered[name].dtype == x.dtype
        assert gathered[name].sharding.is_equivalent_to(placement.batch, x.ndim)
    np.testing.assert_array_equal(jax.random.key_data(gathered["keys"]), jax.random.key_data(data["keys"][rows]))


class Batches:
    def __iter__(self):
        return ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))


def test_batches_of_an_iterable_are_sharded():
    options = {"data": Batches(), "batch_size": "full", "steps": 12}
    assert_close_runs(fit(mesh=mesh(8), **options), fit(**options))


PLACES = {
    "one device": lambda: {},
    "two devices": lambda: {"mesh": Mesh(np.array(jax.devices()[:2]), ("data",))},
    "zero": lambda: {"mesh": mesh(8), "params": zero(mesh(8))},
    "fsdp": lambda: {"mesh": mesh(8), "params": fsdp(mesh(8))},
}


@pytest.mark.parametrize("then", PLACES)
@pytest.mark.parametrize("now", ["two devices", "zero", "fsdp"])
def test_a_descent_is_resumed_on_other_devices(on_one_device, tmp_path, then, now):
    options = {"checkpoint": tmp_path, "resume": True}
    fit(steps=13, **options, **PLACES[then]())
    done = fit(**options, **PLACES[now]())
    assert_close_runs(done, on_one_device)
    if now != "two devices":
        assert done.state.opt_state[0].nu["w2"].sharding.shard_shape((16,)) == (2,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mesh": "data=8"}, TypeError, "mesh must be a Mesh or the NamedSharding of a batch"),
        ({"mesh": lambda: NamedSharding(mesh(8), P())}, ValueError, "must shard its first axis and no other"),
        ({"mesh": lambda: NamedSharding(mesh(4, 2), P("data", "model"))}, ValueError, "and no other, got"),
        ({"mesh": lambda: mesh(8), "batch_size": 12}, ValueError, "a multiple of the 8 devices of mesh, got 12"),
        ({"mesh": lambda: mesh(8), "data": None, "batch_size": "full"}, ValueError, "there are no data"),
        (
            {"mesh": lambda: mesh(8), "data": iter([(X[:5], Y[:5])]), "batch_size": "full"},
            ValueError,
            r"batches must have a multiple of 8 rows, .* got shape \(5, 6\)",
        ),
    ],
)
def test_wrong_meshes_and_batch_sizes_are_refused(options, error, message):
    options = {name: x() if callable(x) else x for name, x in options.items()}
    with pytest.raises(error, match=message):
        fit(**options)


def test_an_optimizer_over_a_named_axis_is_refused_with_a_fix():
    tx = gd.chain(gd.compressed_mean("data", bits=8), gd.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"fit: tx must take the gradient of the global batch.*'data'.*Leave that part"
    ):
        gd.fit(lambda w, batch: (w - 1.0) ** 2, 0.0, tx, steps=1, progress=False)
