"""Several processes are one descent: its losses, its end, its checkpoints; and what is left of it when one is lost."""

import json
import os
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
from gdjax.cli import main
from gdjax.descent import whole
from gdjax.descent.checkpointing import Store
from gdjax.descent.placing import Placement
from tests.processes import all_ended, environment, free_port, in_processes, running

RNG = np.random.default_rng(0)
X = RNG.normal(size=(42, 6)).astype(np.float32)
Y = np.tanh(X.sum(1))
START = {"w1": RNG.normal(size=(6, 8)).astype(np.float32), "w2": RNG.normal(size=8).astype(np.float32)}
ADAM = gd.adamw(1e-2)


def loss(params, batch, key):
    x, y = batch
    kept = jax.random.bernoulli(key, 0.9, x.shape)
    return jnp.mean((jnp.tanh((x * kept) @ params["w1"]) @ params["w2"] - y) ** 2)


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
    x, _ = Placement.of(mesh).divided((X, Y))
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


def uneven(mesh, me, folder):
    return failing(lambda: fit(mesh, data=Again([(X[:4], Y[:4])] * (7 + me)), batch_size="full", steps=None, epochs=2))


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
        by_the_clock, evaluated, broken_checkpoint,
    )
}  # fmt: skip


def steps_in(folder):
    with os.scandir(folder) as found:
        return sorted(int(entry.name) for entry in found if entry.name.isdigit())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("descents")


@pytest.fixture(scope="module")
def both(folder):
    return in_processes(2, "tests.test_processes:descents", str(folder), devices=4)


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


def test_what_fails_in_one_process_ends_all_with_everything_saved(both):
    (first, saved), (second, saved_too) = (of["failed_in_one"] for of in both)
    assert second == ["RuntimeError", "broken"]
    assert first == ["PeerFailedError", "fit: another process failed in a callback, and says why itself."]
    assert saved == saved_too
    assert saved[-1] >= 5


def test_batches_that_end_earlier_in_one_process_are_refused_in_all(both):
    for of in both:
        assert of["uneven"][0] == "ValueError"
        assert "as many batches an epoch in every process" in of["uneven"][1]


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
    sums = whole.sums({"x": jax.device_put(x, NamedSharding(mesh, P("data")))})["x"]
    assert [bounds for bounds, _ in sums] == [[(0, 2), (0, 2)], [(2, 4), (0, 2)]]
    assert whole._is_whole(x, sums)
    assert not whole._is_whole(x, sums[:1])
    x[3, 1] = np.nextafter(x[3, 1], 0)
    assert not whole._is_whole(x, sums)


# The command line


BATCH = ["classification", "--batch-size", "8", "--optimizer", "adam(1e-2)"]


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))


def commands(number, *arguments):
    """Of so many processes of one run."""
    joined = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", number]
    train = [sys.executable, "-m", "gdjax", "train", *arguments]
    return [[*train, *joined, "--process-id", i] for i in range(number)]


@pytest.fixture
def train(env, tmp_path):
    """Run a command in so many processes until they end, and return what the first one said."""

    def run(number, *arguments):
        many = commands(number, *arguments) if number > 1 else [[sys.executable, "-m", "gdjax", "train", *arguments]]
        with running(*many, cwd=tmp_path, env=env) as processes:
            ended = all_ended(processes, 150)
        for status, _, err in ended:
            assert status == 0, err
        assert [(out, err) for _, out, err in ended[1:]] == [("", "")] * (number - 1)
        return ended[0]

    return run


def told(run):
    """The losses in the file of a run, and the steps that they are of."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row], [row["loss"] for row in rows if "loss" in row]


def test_one_two_and_four_processes_go_on_with_each_others_runs(train, tmp_path):
    train(1, *BATCH, "--steps", 120, "--out", "whole")
    train(2, *BATCH, "--steps", 40, "--out", "run", "--mesh", "data=4")
    train(1, "--resume", "--out", "run", "--steps", 80)
    _, out, _ = train(4, "--resume", "--out", "run", "--steps", 120)
    assert out.startswith("classification(l2=0.001) in run\n")
    assert "Gloo" not in out
    steps, found = told(tmp_path / "run")
    assert steps == [*range(120)]
    np.testing.assert_allclose(found, told(tmp_path / "whole")[1], rtol=1e-5)
    assert 'mesh = "data=4"' in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Open MPI's mpirun")
def test_open_mpi_starts_a_run(env, tmp_path):
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 2, sys.executable, "-m", "gdjax", "train"]
    with running([*command, *BATCH, "--steps", 20], cwd=tmp_path, env=env) as processes:
        [(status, out, err)] = all_ended(processes, 120)
    assert status == 0, err
    assert "classification(l2=0.001) in runs/classification-1" in out
    assert told(tmp_path / "runs/classification-1")[0] == [*range(20)]
    assert 'mesh = "data=2"' in (tmp_path / "runs/classification-1" / "config.toml").read_text()


@pytest.fixture
def endless(env, tmp_path):
    """Two processes of an endless run, of which something is saved."""
    many = commands(2, *BATCH, "--steps", 10**6, "--save-every", 20, "--out", "run", "--mesh", "data=4")
    with running(*many, cwd=tmp_path, env=env) as processes:
        until = time.monotonic() + 120
        while not (tmp_path / "run/checkpoints/40").exists():
            if time.monotonic() > until or not all(process.running() for process in processes):
                all_ended(processes, 1)
                pytest.fail("nothing was saved")
            time.sleep(0.02)
        yield processes


def test_sigterm_to_one_ends_all_at_one_step_and_they_are_resumed(endless, train, tmp_path):
    os.kill(endless[1].pid, signal.SIGTERM)
    (status, _, err), (other, other_out, other_err) = all_ended(endless, 60)
    assert (status, other) == (143, 143), err + other_err
    [*_, step] = steps_in(tmp_path / "run/checkpoints")
    assert err.startswith(f"gdjax: SIGTERM after step {step:,}; saved in ")
    assert err.endswith("\ngdjax: gdjax train --resume --out run goes on.\n")
    assert (other_out, other_err) == ("", "")
    train(2, "--resume", "--out", "run", "--steps", step + 10)
    train(1, *BATCH, "--steps", step + 10, "--out", "whole")
    np.testing.assert_allclose(told(tmp_path / "run")[1], told(tmp_path / "whole")[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("which", "how"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)], ids=lambda x: str(x)
)
def test_where_a_process_is_lost_the_other_says_so_and_ends_in_time(endless, tmp_path, which, how):
    os.kill(endless[which].pid, how)
    [(status, _, _)] = all_ended([endless[1 - which]], 15)
    assert status != 0
    time.sleep(0.5)
    [(_, _, err)] = all_ended([endless[1 - which]], 1)
    with Store(gd.Checkpoints(tmp_path / "run/checkpoints")) as store:
        step, _ = store.newest()
    assert err.endswith(
        f"gdjax: a process of this run was lost; its last checkpoint is of step {step:,}: gdjax train --resume "
        "--out run, in all processes, goes on.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "host:1"], "go together: give --num-processes and --process-id too."),
        (["--num-processes", "2", "--process-id", "0"], "go together: give --coordinator too."),
        (["--coordinator", "host", "--num-processes", "2", "--process-id", "0"], "--coordinator must be HOST:PORT"),
        (["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"], "less than --num-processes 2"),
        (["--mesh", "8"], "--mesh must be an axis and a number of devices of 1 at least, as in data=8, got '8'"),
        (["--mesh", "data=0"], "as in data=8, got 'data=0'"),
        (["--mesh", "data=4,model=2"], "--mesh must have one axis, got 'data=4,model=2'"),
    ],
)
def test_wrong_flags_are_refused_in_words(monkeypatch, capfd, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gdjax", "train", "--no-cache", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_all_processes_find_wrong_is_said_once(env, tmp_path):
    wrong = commands(2, *BATCH, "--mesh", "data=3")
    with running(*wrong, cwd=tmp_path, env=env) as processes:
        first, second = all_ended(processes, 60)
    assert (first[0], second[0]) == (2, 2)
    assert "--mesh must have as many devices for each of 2 processes, got 'data=3'" in first[2]
    wrong = commands(2, "classification", "--batch-size", "5", "--mesh", "data=4")
    with running(*wrong, cwd=tmp_path, env=env) as processes:
        first, second = all_ended(processes, 60)
    assert (first[0], second[0]) == (2, 2)
    assert first[2].startswith("gdjax: --batch-size must be a multiple of the devices of --mesh")
    assert second[2] == ""
    assert not list(tmp_path.glob("runs/*"))
