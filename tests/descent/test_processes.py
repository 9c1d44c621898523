"""Several processes are one descent: its losses, its end, its checkpoints; and what is left of it when one is lost."""

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
from tests.network import given, loss
from tests.processes import in_processes, steps_in

pytestmark = pytest.mark.long

X, Y, START = given(8)
ADAM = gd.adamw(1e-2)


def fit(mesh=None, params=START, tx=ADAM, data=(X, Y), **options):
    return gd.fit(
        loss, params, tx, data, mesh=mesh, **{"batch_size": 8, "steps": 24, "progress": False, "key": 3} | options
    )


def zero(mesh):
    """A state whose moments are divided over the devices."""
    params = jax.device_put(START, NamedSharding(mesh, P()))
    opt_state = gd.sharding.init(ADAM, params, gd.sharding.zero(ADAM, params))
    of_state, _ = jax.random.split(jax.random.key(3))
    return gd.State(params, opt_state, jnp.zeros((), jnp.int32), of_state, None)


def whole_mesh():
    return Mesh(np.array(jax.devices()), ("data",))


# What two processes do together, each with two devices; the test before them compares


def descents(folder):
    """Descents of several kinds, one after the other in the same two processes."""
    mesh, me = whole_mesh(), jax.process_index()
    return {name: of(mesh, me, f"{folder}/{name}") for name, of in KINDS.items()}


def losses(done):
    return [float(x) for x in done.history["loss"]]


def alone(mesh, me, folder):
    return losses(fit())


def divided(mesh, me, folder):
    return losses(fit(mesh))


def placed(mesh, me, folder):
    x, _ = Placement.of(mesh).shard_rows((X, Y))
    return [x.shape, [shard.data.shape for shard in x.addressable_shards]]


def of_an_iterable(mesh, me, folder):
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]
    parts = [(x[4 * me : 4 * me + 4], y[4 * me : 4 * me + 4]) for x, y in batches]
    divided, whole = (
        fit(*on, batch_size="full", steps=12, data=Again(of)) for on, of in [([mesh], parts), ([], batches)]
    )
    return [losses(divided), losses(whole)]


class Again:
    """An iterable of batches."""

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)


def streamed(mesh, numbers, rows=(4, 4), **options):
    """What becomes of a descent on an iterable that has so many batches, of so many rows, in each process."""
    me = jax.process_index()
    batches = Again([(X[: rows[me]], Y[: rows[me]])] * numbers[me])
    return failing(lambda: fit(mesh, data=batches, batch_size="full", steps=None, epochs=2, **options))


def uneven(mesh, me, folder):
    evaluate = gd.Evaluate(lambda params: jnp.sum(params["w2"]))
    return [streamed(mesh, (7, 8)), streamed(mesh, (11, 12), evaluate=evaluate), streamed(mesh, (5, 4))]


def uneven_rows(mesh, me, folder):
    return streamed(mesh, (7, 7), rows=(4, 2))


def unlike(mesh, me, folder):
    """Each argument that the second process has otherwise than the first."""
    several = [
        {"evaluate": [jnp.sum, None][me]},
        {"checkpoint": [folder, None][me]},
        {"steps": 24 + me},
        {"params": {**START, "w2": START["w2"] + me}},
        {"key": 3 + me},
        {"tx": gd.adamw([1e-2, 1e-3][me])},
        {"batch_size": [8, "eight"][me]},
    ]
    return [failing(lambda given=given: fit(mesh, **given)) for given in several]


def failed_elsewhere(mesh, me, folder):
    """An evaluation, an iterable and a callback that fail in the second process."""

    def evaluated(params):
        if me == 1:
            raise KeyError("no accuracy")
        return 1.0

    def broken():
        yield from [(X[:4], Y[:4])] * 9
        if me == 1:
            raise OSError("no further file")
        yield from [(X[:4], Y[:4])] * 9

    def leave(now):
        sys.exit(3 if me == 1 else None) if me == 1 and now.step >= 5 else None

    return [
        failing(lambda: fit(mesh, evaluate=evaluated)),
        failing(lambda: fit(mesh, data=broken(), batch_size="full", checkpoint=folder)),
        failing(lambda: fit(mesh, steps=500, callbacks=[leave])),
        steps_in(folder),
    ]


def by_themselves(mesh, me, folder):
    """A descent of each process in a folder of its own."""
    if me == 1:
        return failing(lambda: fit(steps=8, checkpoint=f"{folder}/{me}"))
    done = fit(steps=8, checkpoint=f"{folder}/{me}")
    again = fit(steps=12, checkpoint=f"{folder}/{me}", resume=True)
    return [losses(done), losses(again), steps_in(f"{folder}/{me}")]


def fsdp(mesh, me, folder):
    """Parameters of which every device has its part."""
    specs = {"w1": P(None, "data"), "w2": P("data")}
    parts = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    params = {name: put(x, parts[name]) for name, x in START.items()}
    done = fit(mesh, params, steps=12)
    return [losses(done), [shard.data.shape for shard in done.params["w1"].addressable_shards]]


def keys_of_an_iterable(mesh, me, folder):
    keys = jax.random.split(jax.random.key(0), 8)
    brought = Placement.of(mesh).place_local(keys[4 * me : 4 * me + 4])
    parts = [(part.data, keys[part.index[:1]]) for part in brought.addressable_shards]
    return [brought.shape, [bool((jax.random.key_data(a) == jax.random.key_data(b)).all()) for a, b in parts]]


def failing(call):
    try:
        call()
    except (Exception, SystemExit) as error:
        return [type(error).__name__, str(error)]
    return None


def divided_state(mesh, me, folder):
    done = fit(mesh, zero(mesh), checkpoint=folder, steps=12)
    return [losses(done), [shard.data.shape for shard in done.state.opt_state[0].mu["w1"].addressable_shards]]


def asked_by_one(mesh, me, folder):
    done = fit(mesh, steps=500, callbacks=[lambda now: me == 1 and now.step >= 5])
    return [str(done.stopped), int(done.state.count)]


def failed_in_one(mesh, me, folder):
    def broken(now):
        if me == 1 and now.step >= 5:
            raise RuntimeError("broken")

    checkpoint = gd.Checkpoints(folder, every=4)
    return [failing(lambda: fit(mesh, steps=500, callbacks=[broken], checkpoint=checkpoint)), steps_in(folder)]


def terminated_in_one(mesh, me, folder):
    def terminate(now):
        if me == 1 and now.step >= 5:
            os.kill(os.getpid(), signal.SIGTERM)

    return [failing(lambda: fit(mesh, steps=500, callbacks=[terminate], checkpoint=folder)), steps_in(folder)]


def by_the_clock(mesh, me, folder):
    slow = [lambda now: time.sleep(0.05 * me)]
    done = fit(mesh, steps=None, stop=gd.stop.seconds(1.0), callbacks=slow)
    return [str(done.stopped), int(done.state.count)]


def evaluated(mesh, me, folder):
    done = fit(mesh, evaluate=gd.Evaluate(lambda params: {"who": me, "spread": jnp.std(params["w1"])}, every=8))
    return done.history.evaluations["who"].tolist()


def broken_checkpoint(mesh, me, folder):
    """Both take the one before, and go on alike."""
    fit(mesh, steps=8, checkpoint=gd.Checkpoints(folder, every=4))
    if me == 0:
        shutil.rmtree(f"{folder}/8/record")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = fit(mesh, steps=12, checkpoint=folder, resume=True)
    return [losses(done), steps_in(folder), len(said)]


KINDS = {
    of.__name__: of
    for of in (
        alone, divided, placed, of_an_iterable, uneven, divided_state, asked_by_one, failed_in_one, terminated_in_one,
        by_the_clock, evaluated, broken_checkpoint, uneven_rows, unlike, failed_elsewhere, by_themselves, fsdp,
        keys_of_an_iterable,
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("descents")


@pytest.fixture(scope="module")
def both(folder):
    return in_processes(2, descents, str(folder), devices=4)


def test_two_processes_descend_as_one_device_does(both):
    for of in both:
        np.testing.assert_allclose(of["divided"], of["alone"], rtol=1e-5)
        np.testing.assert_allclose(*of["of_an_iterable"], rtol=1e-5)
    assert both[0]["divided"] == both[1]["divided"]


def test_each_process_holds_its_rows_alone(both):
    for of in both:
        assert of["placed"] == [[44, 6], [[11, 6], [11, 6]]]


def test_what_one_process_decides_by_itself_ends_all_at_the_same_step(both):
    one, two = both
    assert one["asked_by_one"] == two["asked_by_one"]
    assert one["asked_by_one"][0] == "callback"
    assert one["by_the_clock"] == two["by_the_clock"]
    assert one["by_the_clock"][0] == "seconds"
    assert one["evaluated"] == two["evaluated"] == [0.0] * len(one["evaluated"])
    assert one["terminated_in_one"] == two["terminated_in_one"]
    assert one["terminated_in_one"][0] == ["SystemExit", "143"]


FAILED = (
    "fit: process 1 failed, and all processes end: {}. Saved checkpoints stay: start all of them again, with "
    "resume=True where there is a checkpoint."
)


def test_what_fails_in_one_process_ends_all_with_everything_saved(both):
    (first, saved), (second, saved_too) = (of["failed_in_one"] for of in both)
    assert second == ["RuntimeError", "broken"]
    assert first == ["PeerFailedError", FAILED.format("RuntimeError: broken")]
    assert saved == saved_too
    assert saved[-1] >= 5


def test_an_evaluation_or_an_iterable_that_fails_in_one_process_ends_all_with_a_sentence(both):
    first, second = (of["failed_elsewhere"] for of in both)
    assert second[:3] == [["KeyError", "'no accuracy'"], ["OSError", "no further file"], ["SystemExit", "3"]]
    told = ["KeyError: 'no accuracy'", "OSError: no further file", "SystemExit: 3"]
    assert first[:3] == [["PeerFailedError", FAILED.format(text)] for text in told]
    assert first[3] == second[3] != []


def test_batches_that_end_earlier_in_one_process_are_refused_in_all(both):
    for of in both:
        for kind, words in of["uneven"]:
            assert kind == "ValueError"
            assert "the same number of batches an epoch in every process; process 0 has " in words


def test_batches_of_other_shapes_in_one_process_are_refused_in_all(both):
    for of in both:
        kind, words = of["uneven_rows"]
        assert kind == "ValueError"
        assert "float32[8, 6], float32[8] by that of process 0, float32[4, 6], float32[4] by that of process 1" in words


def test_arguments_that_are_not_alike_are_named(both):
    one, two = (of["unlike"] for of in both)
    assert one[:-1] == two[:-1]
    names = ["evaluate", "checkpoint", "steps", "params", "key", "tx"]
    for name, (kind, words) in zip(names, one[:-1], strict=True):
        assert kind == "ValueError"
        assert words.startswith(f"fit: every process must be given the same {name}, got ")
    assert (one[-1][0], two[-1][0]) == ("PeerFailedError", "ValueError")


def test_the_first_process_may_save_a_descent_of_its_own_and_others_are_told_that_they_cannot(both):
    one, two = both
    assert one["by_themselves"] == [one["alone"][:8], one["alone"][:12], [8, 12]]
    assert two["by_themselves"][0] == "CheckpointError"
    assert "checkpoint needs process 0" in two["by_themselves"][1]


def test_parameters_divided_over_two_processes_stay_so(both):
    for of in both:
        found, shapes = of["fsdp"]
        np.testing.assert_allclose(found, of["alone"][:12], rtol=1e-5)
        assert shapes == [[6, 2], [6, 2]]
        assert of["keys_of_an_iterable"] == [[8], [True, True]]


def test_where_a_process_is_lost_fit_says_what_is_saved(tmp_path):
    (kind, words), left = in_processes(2, lost, str(tmp_path))
    assert (kind, left) == ("PeerLostError", "left")
    assert words.startswith("fit: another process of this descent was lost (")
    [*_, step] = steps_in(tmp_path)
    assert words.endswith(f"{tmp_path} has the checkpoint of step {step:,}: start all of them again with resume=True.")


def lost(folder):
    def leave(now):
        if jax.process_index() == 1 and now.step >= 9:
            end("left")

    wishes = {"checkpoint": gd.Checkpoints(folder, every=4), "callbacks": [leave]}
    end(failing(lambda: fit(whole_mesh(), steps=500, **wishes)))


def end(result):
    """End a process of `in_processes` at once: a shutdown would wait for the other."""
    pathlib.Path(sys.argv[-1]).write_text(json.dumps(result))
    os._exit(0)


def test_a_broken_checkpoint_is_passed_over_by_all(both):
    for i, of in enumerate(both):
        found, steps, warned = of["broken_checkpoint"]
        np.testing.assert_allclose(found, of["alone"][:12], rtol=1e-5)
        assert (steps, warned) == ([4, 12], 1 - i)


def test_a_state_divided_over_two_processes_is_resumed_in_one(both, folder, tmp_path):
    assert both[0]["divided_state"][1] == [[6, 2], [6, 2]]
    mesh = whole_mesh()
    for name, on in (("alone", ()), ("divided", (mesh, zero(mesh)))):
        shutil.copytree(folder / "divided_state", tmp_path / name)
        done = fit(*on, checkpoint=tmp_path / name, resume=True)
        np.testing.assert_allclose(losses(done), both[0]["alone"], rtol=1e-5)
    assert done.state.opt_state[0].mu["w2"].sharding.shard_shape((8,)) == (8 // mesh.size,)


def test_whatever_part_of_a_checkpoint_is_broken_it_is_found_or_was_not_needed(both, folder, tmp_path):
    written = folder / "divided_state"
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


def test_a_part_that_is_another_by_one_bit_is_told_by_its_own_checksum():
    x = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sums = orbax.checksums({"x": jax.device_put(x, NamedSharding(mesh, P("data")))})["x"]
    assert [bounds for bounds, _ in sums] == [[(0, 2), (0, 2)], [(2, 4), (0, 2)]]
    assert orbax._is_intact(x, sums)
    assert not orbax._is_intact(x, sums[:1])
    x[3, 1] = np.nextafter(x[3, 1], 0)
    assert not orbax._is_intact(x, sums)
