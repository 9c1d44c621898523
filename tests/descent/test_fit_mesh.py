"""A descent over the devices of a mesh is the descent of one device, and its arrays lie where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax as gd
from gdjax.descent.data.placement import Placement
from tests.network import given, loss

X, Y, START = given(16)
ADAM = gd.adamw(1e-2)


def fit(params=START, tx=ADAM, data=(X, Y), **options):
    return gd.fit(loss, params, tx, data, **{"batch_size": 8, "steps": 30, "progress": False} | options)


def mesh(*shape, names=("data", "model"), kind=AxisType.Auto):
    return jax.make_mesh(shape, names[: len(shape)], axis_types=(kind,) * len(shape))


def close(ours, theirs, rtol=1e-5):
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=rtol)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours.params, theirs.params)


@pytest.fixture(scope="module")
def alone():
    return fit()


MESHES = {
    "8": lambda: mesh(8),
    "4x2": lambda: mesh(4, 2),
    "explicit": lambda: mesh(8, kind=AxisType.Explicit),
    "over one axis": lambda: NamedSharding(mesh(4, 2), P("data")),
    "over both, turned": lambda: NamedSharding(mesh(4, 2), P(("model", "data"))),
    "two devices": lambda: Mesh(np.array(jax.devices()[:2]), ("data",)),
}


@pytest.mark.parametrize("kind", MESHES)
def test_losses_are_those_of_one_device(alone, kind):
    close(fit(mesh=MESHES[kind]()), alone)


@pytest.mark.parametrize("options", [{"batch_size": 40}, {"batch_size": 16, "drop_remainder": False}], ids=str)
def test_the_order_of_examples_is_that_of_one_device(options):
    data = X[:40], Y[:40]
    divided = fit(data=data, mesh=mesh(8), **options)
    close(divided, fit(data=data, **options))


def fsdp(grid):
    """Parameters of which every device has its part."""
    specs = {"w1": P(None, "data"), "w2": P("data")}
    return {name: jax.device_put(START[name], NamedSharding(grid, spec)) for name, spec in specs.items()}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_parameters_that_are_divided_stay_divided_and_the_state_follows(alone, kind):
    done = fit(fsdp(grid := mesh(8, kind=kind)), mesh=grid, checkpoint=None)
    close(done, alone)
    for of in (done.state.params, done.state.opt_state[0].mu, done.state.opt_state[0].nu):
        assert of["w1"].sharding.shard_shape((6, 16)) == (6, 2)
        assert of["w2"].sharding.shard_shape((16,)) == (2,)
    assert done.state.count.sharding.is_fully_replicated


def zero(grid, params=None):
    """A state whose moments are divided while the parameters are whole."""
    params = jax.device_put(params or START, NamedSharding(grid, P()))
    opt_state = gd.sharding.init(ADAM, params, gd.sharding.zero(ADAM, params))
    of_state, _ = jax.random.split(jax.random.key(0))
    return gd.State(params, opt_state, jnp.zeros((), jnp.int32), of_state, None)


def test_a_state_that_is_divided_stays_so(alone):
    done = fit(zero(grid := mesh(8)), mesh=grid)
    close(done, alone)
    mu = done.state.opt_state[0].mu
    assert mu["w1"].sharding.shard_shape((6, 16)) == (6, 2)
    assert mu["w2"].sharding.shard_shape((16,)) == (2,)
    assert done.state.params["w1"].sharding.is_fully_replicated


def test_a_dispatch_is_one_program_however_the_state_lies(monkeypatch):
    traced = []
    many = gd.descent.loop.program.Program.take_steps
    monkeypatch.setattr(gd.descent.loop.program.Program, "take_steps", lambda *a: traced.append(1) or many(*a))
    grid = mesh(8)
    fit(zero(grid), gd.adamw(1e-2, b1=0.8), mesh=grid, evaluate=gd.Evaluate(lambda p: p["w2"].sum(), every=3))
    assert len(traced) == 1


def test_data_are_divided_by_rows_and_filled_up():
    placement = Placement.of(mesh(8))
    x, y = placement.shard_rows((X, Y))
    assert x.shape == (48, 6)
    assert {shard.data.shape for shard in x.addressable_shards} == {(6, 6)}
    assert {shard.data.shape for shard in y.addressable_shards} == {(6,)}
    np.testing.assert_array_equal(x[:42], X)


ODD = {
    "signs": np.where(np.arange(42) % 2, -0.0, 0.0).astype(np.float32),
    "not finite": np.where(np.arange(42) % 3, np.nan, np.inf).astype(np.float32),
    "halves": np.arange(42, dtype=jnp.bfloat16),
    "bytes": np.arange(42, dtype=np.uint8).reshape(42, 1, 1),
    "truths": np.arange(42) % 2 == 0,
    "complex": ((np.arange(42) - 9) * (-0.0 + 2j)).astype(np.complex64),
    "numbers": -np.arange(84, dtype=np.int32).reshape(42, 2),
}


@pytest.mark.parametrize("kind", MESHES)
def test_rows_are_found_to_the_bit_wherever_they_lie(kind):
    placement = Placement.of(MESHES[kind]())
    rows = np.random.default_rng(0).permutation(42)[:16]
    data = {**ODD, "keys": jax.random.split(jax.random.key(0), 42)}
    found = jax.jit(placement.gather_rows)(placement.shard_rows(data), rows)
    for name, x in ODD.items():
        assert np.asarray(found[name]).tobytes() == x[rows].tobytes(), name
        assert found[name].dtype == x.dtype
        assert found[name].sharding.is_equivalent_to(placement.batch, x.ndim)
    np.testing.assert_array_equal(jax.random.key_data(found["keys"]), jax.random.key_data(data["keys"][rows]))


class Batches:
    def __iter__(self):
        return ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))


def test_batches_of_an_iterable_are_divided():
    options = {"data": Batches(), "batch_size": "full", "steps": 12}
    close(fit(mesh=mesh(8), **options), fit(**options))


PLACES = {
    "one device": lambda: {},
    "two devices": lambda: {"mesh": Mesh(np.array(jax.devices()[:2]), ("data",))},
    "zero": lambda: {"mesh": mesh(8), "params": zero(mesh(8))},
    "fsdp": lambda: {"mesh": mesh(8), "params": fsdp(mesh(8))},
}


@pytest.mark.parametrize("then", PLACES)
@pytest.mark.parametrize("now", ["two devices", "zero", "fsdp"])
def test_it_is_resumed_on_other_devices(alone, tmp_path, then, now):
    options = {"checkpoint": tmp_path, "resume": True}
    fit(steps=13, **options, **PLACES[then]())
    done = fit(**options, **PLACES[now]())
    close(done, alone)
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
def test_what_cannot_be_divided_is_refused(options, error, message):
    given = {name: x() if callable(x) else x for name, x in options.items()}
    with pytest.raises(error, match=message):
        fit(**given)


def test_an_optimizer_over_an_axis_is_refused_with_the_way_out():
    tx = gd.chain(gd.compressed_mean("data", bits=8), gd.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"fit: tx must take the gradient of the global batch.*'data'.*Leave that part"
    ):
        gd.fit(lambda w, batch: (w - 1.0) ** 2, 0.0, tx, steps=1, progress=False)
