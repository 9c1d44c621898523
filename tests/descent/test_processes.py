"""Several processes run one descent: losses, endings, checkpoints, and failures of one process."""

import json
import os
import pathlib
import shutil
import signal
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax as gd
from gdjax.descent.checkpoints import orbax
from gdjax.descent.checkpoints.store import Store
from gdjax.descent.data.placement import Placement, put
from tests.network import loss, network_data
from tests.processes import in_processes, steps_in

pytestmark = pytest.mark.long

X, Y, START = network_data(8)
ADAM = gd.adamw(1e-2)


def fit(mesh=None, params=START, tx=ADAM, data=(X, Y), **options):
    return gd.fit(
        loss, params, tx, data, mesh=mesh, **{"batch_size": 8, "steps": 24, "progress": False, "key": 3} | options
    )


def zero(mesh):
    """Return a state whose moments are sharded over the devices."""
    params = jax.device_put(START, NamedSharding(mesh, P()))
    opt_state = gd.sharding.init(ADAM, params, gd.sharding.zero(ADAM, params))
    key, _ = jax.random.split(jax.random.key(3))
    return gd.State(params, opt_state, jnp.zeros((), jnp.int32), key, None)


def mesh_of_all_devices():
    return Mesh(np.array(jax.devices()), ("data",))


# Run by two processes together, each with two devices; the tests below compare the results


def descents(folder):
    """Return the results of all descents, run one after the other in the same two processes."""
    mesh, rank = mesh_of_all_devices(), jax.process_index()
    return {name: descent(mesh, rank, f"{folder}/{name}") for name, descent in KINDS.items()}


def losses(done):
    return [float(x) for x in done.history["loss"]]


def on_one_device(mesh, rank, folder):
    return losses(fit())


def over_mesh(mesh, rank, folder):
    return losses(fit(mesh))


def shard_shapes(mesh, rank, folder):
    x, _ = Placement.of(mesh).shard_rows((X, Y))
    return [x.shape, [shard.data.shape for shard in x.addressable_shards]]


def from_an_iterable(mesh, rank, folder):
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]
    parts = [(x[4 * rank : 4 * rank + 4], y[4 * rank : 4 * rank + 4]) for x, y in batches]
    over_mesh = fit(mesh, batch_size="full", steps=12, data=Again(parts))
    on_one = fit(batch_size="full", steps=12, data=Again(batches))
    return [losses(over_mesh), losses(on_one)]


class Again:
    """An iterable of batches that can be repeated."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)


def fit_on_batches(mesh, numbers, rows=(4, 4), **options):
    """Return the error of a descent on an iterable, given the number of batches and rows in each process."""
    rank = jax.process_index()
    batches = Again([(X[: rows[rank]], Y[: rows[rank]])] * numbers[rank])
    return error_of(lambda: fit(mesh, data=batches, batch_size="full", steps=None, epochs=2, **options))


def uneven_batches(mesh, rank, folder):
    evaluate = gd.Evaluate(lambda params: jnp.sum(params["w2"]))
    return [
        fit_on_batches(mesh, (7, 8)),
        fit_on_batches(mesh, (11, 12), evaluate=evaluate),
        fit_on_batches(mesh, (5, 4)),
    ]


def uneven_rows(mesh, rank, folder):
    return fit_on_batches(mesh, (7, 7), rows=(4, 2))


def different_arguments(mesh, rank, folder):
    """Return the errors of descents with one argument that differs between the processes."""
    several = [
        {"evaluate": [jnp.sum, None][rank]},
        {"checkpoint": [folder, None][rank]},
        {"steps": 24 + rank},
        {"params": {**START, "w2": START["w2"] + rank}},
        {"key": 3 + rank},
        {"tx": gd.adamw([1e-2, 1e-3][rank])},
        {"batch_size": [8, "eight"][rank]},
    ]
    return [error_of(lambda given=given: fit(mesh, **given)) for given in several]


def failed_elsewhere(mesh, rank, folder):
    """Return the errors of an evaluation, an iterable and a callback that fail in the second process."""

    def evaluated(params):
        if rank == 1:
            raise KeyError("no accuracy")
        return 1.0

    def broken():
        yield from [(X[:4], Y[:4])] * 9
        if rank == 1:
            raise OSError("no further file")
        yield from [(X[:4], Y[:4])] * 9

    def leave(now):
        sys.exit(3 if rank == 1 else None) if rank == 1 and now.step >= 5 else None

    return [
        error_of(lambda: fit(mesh, evaluate=evaluated)),
        error_of(lambda: fit(mesh, data=broken(), batch_size="full", checkpoint=folder)),
        error_of(lambda: fit(mesh, steps=500, callbacks=[leave])),
        steps_in(folder),
    ]


def one_descent_each(mesh, rank, folder):
    """Run one descent per process, each in its own folder."""
    if rank == 1:
        return error_of(lambda: fit(steps=8, checkpoint=f"{folder}/{rank}"))
    done = fit(steps=8, checkpoint=f"{folder}/{rank}")
    again = fit(steps=12, checkpoint=f"{folder}/{rank}", resume=True)
    return [losses(done), losses(again), steps_in(f"{folder}/{rank}")]


def fsdp(mesh, rank, folder):
    """Return the losses and the shard shapes of parameters that are sharded over all devices."""
    specs = {"w1": P(None, "data"), "w2": P("data")}
    parts = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    params = {name: put(x, parts[name]) for name, x in START.items()}
    done = fit(mesh, params, steps=12)
    return [losses(done), [shard.data.shape for shard in done.params["w1"].addressable_shards]]


def keys_from_an_iterable(mesh, rank, folder):
    keys = jax.random.split(jax.random.key(0), 8)
    global_keys = Placement.of(mesh).place_local(keys[4 * rank : 4 * rank + 4])
    parts = [(part.data, keys[part.index[:1]]) for part in global_keys.addressable_shards]
    return [global_keys.shape, [bool((jax.random.key_data(a) == jax.random.key_data(b)).all()) for a, b in parts]]


def error_of(call):
    try:
        call()
    except (Exception, SystemExit) as error:
        return [type(error).__name__, str(error)]
    return None


def sharded_state(mesh, rank, folder):
    done = fit(mesh, zero(mesh), checkpoint=folder, steps=12)
    return [losses(done), [shard.data.shape for shard in done.state.opt_state[0].mu["w1"].addressable_shards]]


def stopped_by_one(mesh, rank, folder):
    done = fit(mesh, steps=500, callbacks=[lambda now: rank == 1 and now.step >= 5])
    return [str(done.stopped), int(done.state.count)]


def failed_in_one(mesh, rank, folder):
    def broken(now):
        if rank == 1 and now.step >= 5:
            raise RuntimeError("broken")

    checkpoint = gd.Checkpoints(folder, every=4)
    return [error_of(lambda: fit(mesh, steps=500, callbacks=[broken], checkpoint=checkpoint)), steps_in(folder)]


def terminated_in_one(mesh, rank, folder):
    def terminate(now):
        if rank == 1 and now.step >= 5:
            os.kill(os.getpid(), signal.SIGTERM)

    return [error_of(lambda: fit(mesh, steps=500, callbacks=[terminate], checkpoint=folder)), steps_in(folder)]


def stopped_by_time(mesh, rank, folder):
    slow = [lambda now: time.sleep(0.05 * rank)]
    done = fit(mesh, steps=None, stop=gd.stop.seconds(1.0), callbacks=slow)
    return [str(done.stopped), int(done.state.count)]


def evaluated(mesh, rank, folder):
    done = fit(mesh, evaluate=gd.Evaluate(lambda params: {"who": rank, "spread": jnp.std(params["w1"])}, every=8))
    return done.history.evaluations["who"].tolist()


def broken_checkpoint(mesh, rank, folder):
    """Resume from the checkpoint before a broken one, in both processes."""
    fit(mesh, steps=8, checkpoint=gd.Checkpoints(folder, every=4))
    if rank == 0:
        shutil.rmtree(f"{folder}/8/record")
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        done = fit(mesh, steps=12, checkpoint=folder, resume=True)
    return [losses(done), steps_in(folder), len(caught_warnings)]


KINDS = {
    descent.__name__: descent
    for descent in (
        on_one_device, over_mesh, shard_shapes, from_an_iterable, uneven_batches, sharded_state, stopped_by_one,
        failed_in_one, terminated_in_one, stopped_by_time, evaluated, broken_checkpoint, uneven_rows,
        different_arguments, failed_elsewhere, one_descent_each, fsdp, keys_from_an_iterable,
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("descents")


@pytest.fixture(scope="module")
def results(folder):
    return in_processes(2, descents, str(folder), devices=4)


def test_losses_of_two_processes_match_one_device(results):
    for result in results:
        np.testing.assert_allclose(result["over_mesh"], result["on_one_device"], rtol=1e-5)
        np.testing.assert_allclose(*result["from_an_iterable"], rtol=1e-5)
    assert results[0]["over_mesh"] == results[1]["over_mesh"]


def test_each_process_holds_only_its_rows(results):
    for result in results:
        assert result["shard_shapes"] == [[44, 6], [[11, 6], [11, 6]]]


def test_a_stop_decided_by_one_process_ends_all_at_the_same_step(results):
    one, two = results
    assert one["stopped_by_one"] == two["stopped_by_one"]
    assert one["stopped_by_one"][0] == "callback"
    assert one["stopped_by_time"] == two["stopped_by_time"]
    assert one["stopped_by_time"][0] == "seconds"
    assert one["evaluated"] == two["evaluated"] == [0.0] * len(one["evaluated"])
    assert one["terminated_in_one"] == two["terminated_in_one"]
    assert one["terminated_in_one"][0] == ["SystemExit", "143"]


FAILED = (
    "fit: process 1 failed, and all processes end: {}. Saved checkpoints stay: start all of them again, with "
    "resume=True where there is a checkpoint."
)


def test_a_failure_in_one_process_ends_all_with_a_checkpoint(results):
    (first, saved), (second, saved_too) = (result["failed_in_one"] for result in results)
    assert second == ["RuntimeError", "broken"]
    assert first == ["PeerFailedError", FAILED.format("RuntimeError: broken")]
    assert saved == saved_too
    assert saved[-1] >= 5


def test_a_failing_evaluation_iterable_or_callback_in_one_process_ends_all_with_a_message(results):
    first, second = (result["failed_elsewhere"] for result in results)
    assert second[:3] == [["KeyError", "'no accuracy'"], ["OSError", "no further file"], ["SystemExit", "3"]]
    errors = ["KeyError: 'no accuracy'", "OSError: no further file", "SystemExit: 3"]
    assert first[:3] == [["PeerFailedError", FAILED.format(text)] for text in errors]
    assert first[3] == second[3] != []


def test_fewer_batches_in_one_process_are_refused_in_all(results):
    for result in results:
        for kind, words in result["uneven_batches"]:
            assert kind == "ValueError"
            assert "the same number of batches an epoch in every process; process 0 has " in words


def test_batches_of_another_shape_in_one_process_are_refused_in_all(results):
    for result in results:
        kind, words = result["uneven_rows"]
        assert kind == "ValueError"
        assert "float32[8, 6], float32[8] by that of process 0, float32[4, 6], float32[4] by that of process 1" in words


def test_arguments_that_differ_between_processes_are_named(results):
    one, two = (result["different_arguments"] for result in results)
    assert one[:-1] == two[:-1]
    names = ["evaluate", "checkpoint", "steps", "params", "key", "tx"]
    for name, (kind, words) in zip(names, one[:-1], strict=True):
        assert kind == "ValueError"
        assert words.startswith(f"fit: every process must be given the same {name}, got ")
    assert (one[-1][0], two[-1][0]) == ("PeerFailedError", "ValueError")


def test_only_the_first_process_can_save_a_descent_of_its_own(results):
    one, two = results
    assert one["one_descent_each"] == [one["on_one_device"][:8], one["on_one_device"][:12], [8, 12]]
    assert two["one_descent_each"][0] == "CheckpointError"
    assert "checkpoint needs process 0" in two["one_descent_each"][1]


def test_parameters_sharded_over_two_processes_stay_sharded(results):
    for result in results:
        found, shapes = result["fsdp"]
        np.testing.assert_allclose(found, result["on_one_device"][:12], rtol=1e-5)
        assert shapes == [[6, 2], [6, 2]]
        assert result["keys_from_an_iterable"] == [[8], [True, True]]


def test_a_lost_process_raises_an_error_that_names_the_checkpoint(tmp_path):
    (kind, words), left = in_processes(2, lose_a_process, str(tmp_path))
    assert (kind, left) == ("PeerLostError", "left")
    assert words.startswith("fit: another process of this descent was lost (")
    [*_, step] = steps_in(tmp_path)
    assert words.endswith(f"{tmp_path} has the checkpoint of step {step:,}: start all of them again with resume=True.")


def lose_a_process(folder):
    def leave(now):
        if jax.process_index() == 1 and now.step >= 9:
            end("left")

    options = {"checkpoint": gd.Checkpoints(folder, every=4), "callbacks": [leave]}
    end(error_of(lambda: fit(mesh_of_all_devices(), steps=500, **options)))


def end(result):
    """End a process of `in_processes` at once: a shutdown would wait for the other."""
    pathlib.Path(sys.argv[-1]).write_text(json.dumps(result))
    os._exit(0)


def test_a_broken_checkpoint_is_skipped_by_all_processes(results):
    for i, result in enumerate(results):
        found, steps, warned = result["broken_checkpoint"]
        np.testing.assert_allclose(found, result["on_one_device"][:12], rtol=1e-5)
        assert (steps, warned) == ([4, 12], 1 - i)


def test_a_state_sharded_over_two_processes_is_resumed_in_one(results, folder, tmp_path):
    assert results[0]["sharded_state"][1] == [[6, 2], [6, 2]]
    mesh = mesh_of_all_devices()
    for name, arguments in (("on_one_device", ()), ("over_mesh", (mesh, zero(mesh)))):
        shutil.copytree(folder / "sharded_state", tmp_path / name)
        done = fit(*arguments, checkpoint=tmp_path / name, resume=True)
        np.testing.assert_allclose(losses(done), results[0]["on_one_device"], rtol=1e-5)
    assert done.state.opt_state[0].mu["w2"].sharding.shard_shape((8,)) == (8 // mesh.size,)


def test_damage_to_any_file_of_a_checkpoint_is_detected_or_harmless(results, folder, tmp_path):
    written = folder / "sharded_state"
    with Store(gd.Checkpoints(written)) as store:
        expected = store.newest()[1].arrays
    found = 0
    for file in (written / "12" / "arrays").glob("**/d/*"):
        broken = tmp_path / file.name
        shutil.copytree(written, broken)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        (broken / file.relative_to(written)).write_bytes(content)
        try:
            with Store(gd.Checkpoints(broken)) as store:
                arrays = store.newest()[1].arrays
            jax.tree.map(np.testing.assert_array_equal, arrays, expected)
        except gd.CheckpointError:
            found += 1
    assert found, "no fault in a file of the data was found"


def test_one_changed_bit_in_a_shard_is_detected_by_its_checksum():
    x = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sums = orbax.checksums({"x": jax.device_put(x, NamedSharding(mesh, P("data")))})["x"]
    assert [bounds for bounds, _ in sums] == [[(0, 2), (0, 2)], [(2, 4), (0, 2)]]
    assert orbax._is_intact(x, sums)
    assert not orbax._is_intact(x, sums[:1])
    x[3, 1] = np.nextafter(x[3, 1], 0)
    assert not orbax._is_intact(x, sums)
