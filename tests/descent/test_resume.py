"""A descent that was stopped and resumed gives the results of one that was not."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gdjax as gd
from tests.processes import python_with_ctrl_c

RUN = textwrap.dedent("""
    import sys, time
    import jax, jax.numpy as jnp, numpy as np
    import gdjax as gd

    X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    Y = np.tanh(X.sum(1))

    def loss(params, batch, key):
        x, y = batch
        kept = jax.random.bernoulli(key, 0.9, x.shape)
        return jnp.mean((jnp.tanh((x * kept) @ params["w1"]) @ params["w2"] - y) ** 2)

    def start():
        first, second = jax.random.split(jax.random.key(7))
        return {"w1": jax.random.normal(first, (6, 8)), "w2": jax.random.normal(second, (8,))}

    class Batches:
        def __iter__(self):
            return ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))

    class Counted:
        '''An iterator whose state is a number.'''
        def __init__(self): self.at = 0
        def __iter__(self): return self
        def __next__(self):
            self.at += 1
            rows = np.random.default_rng(self.at).integers(0, 40, 8)
            return X[rows], Y[rows]
        def get_state(self): return {"at": self.at}
        def set_state(self, state): self.at = state["at"]

    def run(folder, kind="arrays", steps=200, slow=0.0, tx=None, stop=None, callbacks_more=(), **options):
        data = {"arrays": (X, Y), "remainder": (X, Y), "batches": Batches(), "counted": Counted()}[kind]
        sizes = {"arrays": {"batch_size": 8}, "remainder": {"batch_size": 7, "drop_remainder": False}}.get(kind, {})
        def halting(now):
            time.sleep(slow)
        tx = tx or gd.chain(gd.clip_by_global_norm(1.0), gd.adamw(gd.cosine_decay_schedule(1e-2, 200)))
        every = gd.Evaluate(lambda p: {"spread": jnp.std(p["w1"])}, every=5)
        checkpoint = gd.Checkpoints(folder, every=10, seconds=1e9, **options.pop("keep", {})) if folder else None
        return gd.fit(loss, start(), tx, data, steps=steps, stop=stop, evaluate=every, checkpoint=checkpoint,
                      key=3, progress=False, callbacks=[halting, *callbacks_more], **sizes, **options)

    if __name__ == "__main__":
        done = run(sys.argv[1], sys.argv[2], slow=float(sys.argv[3]), resume=True)
        print(done)
""")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "descent.py"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def run(program):
    namespace = {"__name__": "descent"}
    exec(compile(RUN, str(program), "exec"), namespace)
    return namespace["run"]


KINDS = ["arrays", "remainder", "batches", "counted"]


@pytest.fixture(scope="module")
def uninterrupted(run):
    """Return the descents that were not stopped."""
    return {kind: run(None, kind) for kind in KINDS}


def assert_same_run(ours, theirs):
    """Check that parameters, states and histories are bitwise equal, except for the throughput."""
    chex.assert_trees_all_equal(ours.params, theirs.params)
    chex.assert_trees_all_equal(ours.state.opt_state, theirs.state.opt_state)
    for a, b in ((ours.history, theirs.history), (ours.history.evaluations, theirs.history.evaluations)):
        assert a.keys() == b.keys()
        for name in a.keys() - {"throughput"}:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_descent_is_bitwise_equal_to_an_uninterrupted_one(run, uninterrupted, kind, tmp_path):
    for steps in (37, 130, 200):
        done = run(tmp_path, kind, steps=steps, resume=True)
    assert_same_run(done, uninterrupted[kind])
    assert done.history.rows == 200


def start_process(program, folder, kind, slow=0.05):
    command = python_with_ctrl_c(program, folder, kind, slow)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def wait_for_checkpoint(folder, process, after=-1, seconds=120):
    """Return the first step after a given one that is saved while the process runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        saved = [int(path.name) for path in pathlib.Path(folder).glob("*") if path.name.isdigit()]
        if saved and max(saved) > after:
            return max(saved)
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"nothing was saved: {process.communicate()}")


@pytest.mark.long
def test_a_descent_killed_several_times_is_bitwise_equal_when_resumed(program, run, uninterrupted, tmp_path):
    saved = -1
    for wait in (0.0, 0.013, 0.031):
        process = start_process(program, tmp_path, "arrays")
        saved = wait_for_checkpoint(tmp_path, process, saved)
        time.sleep(wait)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    done = run(tmp_path, "arrays", resume=True)
    assert_same_run(done, uninterrupted["arrays"])


@pytest.mark.parametrize("kind", ["arrays", "counted"])
def test_sigterm_saves_a_checkpoint_with_a_message_and_exits(program, run, uninterrupted, kind, tmp_path):
    process = start_process(program, tmp_path, kind)
    wait_for_checkpoint(tmp_path, process)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "gdjax: SIGTERM after step" in err
    assert str(tmp_path) in err
    assert not out
    assert "Traceback" not in err
    assert_same_run(run(tmp_path, kind, resume=True), uninterrupted[kind])


def test_ctrl_c_returns_the_result_so_far(program, run, uninterrupted, tmp_path):
    process = start_process(program, tmp_path, "batches")
    wait_for_checkpoint(tmp_path, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("Fit: interrupted (Ctrl-C)")
    assert_same_run(run(tmp_path, "batches", resume=True), uninterrupted["batches"])


def newest(folder):
    return max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def test_a_truncated_newest_checkpoint_is_reported_and_the_one_before_it_used(run, uninterrupted, tmp_path):
    run(tmp_path, steps=100)
    broken = newest(tmp_path)
    largest = max((path for path in broken.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"checkpoint of step 100 .* is broken .* that of step 90 is used"):
        done = run(tmp_path, resume=True)
    assert_same_run(done, uninterrupted["arrays"])


def test_resuming_a_finished_descent_returns_its_result(run, uninterrupted, tmp_path):
    first = run(tmp_path, steps=50)
    again = run(tmp_path, steps=50, resume=True)
    assert_same_run(first, again)
    assert again.stopped is gd.Stopped.STEPS


def test_a_resumed_descent_ends_by_the_same_criterion(run, tmp_path):
    stop = gd.stop.target("spread", above=0.9) | gd.stop.plateau(150)
    first = run(tmp_path, stop=stop)
    again = run(tmp_path, stop=stop, resume=True)
    assert first.stopped == again.stopped != gd.Stopped.STEPS
    assert first.state.count == again.state.count


def test_a_folder_that_holds_a_descent_is_not_overwritten(run, tmp_path):
    run(tmp_path, steps=20)
    with pytest.raises(gd.CheckpointError, match=r"already holds a descent of 20 steps: resume=True resumes it"):
        run(tmp_path, steps=20)


OTHER = gd.chain(gd.clip_by_global_norm(2.0), gd.adamw(gd.cosine_decay_schedule(1e-2, 200)))


def test_another_optimizer_is_refused_by_name_and_can_resume_from_the_parameters(run, tmp_path):
    first = run(tmp_path, steps=20)
    with pytest.raises(gd.CheckpointError, match=r"transforms/0/max_norm: 1.0 then, 2.0 now\. resume=\"params\""):
        run(tmp_path, steps=30, tx=OTHER, resume=True)
    with pytest.raises(gd.CheckpointError, match=r"chain\(clip_by_global_norm\(...\), adamw\(...\)\) then, sgd"):
        run(tmp_path, steps=30, tx=gd.sgd(0.1), resume=True)
    with pytest.raises(gd.CheckpointError, match="holds other opt_state than these"):
        run(tmp_path, steps=30, tx=gd.sgd(0.1), resume="state")
    params_alone = run(tmp_path, steps=21, tx=gd.sgd(0.0), resume="params")
    chex.assert_trees_all_equal(params_alone.params, first.params)
    assert params_alone.history.rows == 21


def test_a_state_can_be_resumed_with_other_hyperparameters(run, tmp_path):
    first = run(tmp_path, steps=20)
    tx = OTHER.replace(init_value=0.0)
    done = run(tmp_path, steps=21, tx=tx, resume="state")
    chex.assert_trees_all_equal(done.params, first.params)
    assert done.state.opt_state[1][0].count == 21


def test_adding_watch_does_not_prevent_resuming(run, uninterrupted, tmp_path):
    tx = gd.chain(gd.clip_by_global_norm(1.0), gd.adamw(gd.cosine_decay_schedule(1e-2, 200)))
    run(tmp_path, steps=100)
    done = run(tmp_path, tx=gd.chain(tx.transforms[0], gd.watch(tx.transforms[1])), resume=True)
    chex.assert_trees_all_equal(done.params, uninterrupted["arrays"].params)


def test_other_parameters_and_batches_are_refused_by_name(run, tmp_path):
    run(tmp_path, steps=20)
    with pytest.raises(gd.CheckpointError, match=r"other batches: .*batch_size=8.* then, .*batch_size=7"):
        run(tmp_path, "remainder", steps=30, resume=True)
    with pytest.raises(gd.CheckpointError, match=r"holds other params than these: .*'w'"):
        gd.fit(lambda p, b: (p["w"] ** 2).sum(), {"w": jnp.ones(2)}, gd.sgd(0.1), steps=2, resume="params",
               checkpoint=tmp_path, progress=False)  # fmt: skip


def test_the_best_checkpoint_is_kept_beside_the_last(run, tmp_path):
    done = run(tmp_path, steps=100, keep={"keep_last": 1, "keep_best": 1, "best": ("spread", "max")})
    saved = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert saved[-1] == 100
    evaluated = dict(zip(*(done.history.evaluations[name].tolist() for name in ("step", "spread")), strict=True))
    candidates = {step: evaluated[step] for step in range(10, 101, 10) if step in evaluated}
    assert saved[0] == max(candidates, key=candidates.get)


def test_a_nonfinite_loss_keeps_the_checkpoint_of_the_last_finite_state(tmp_path):
    def blows_up(w, batch, key, extra):
        return jnp.where(extra >= 5, jnp.nan, (w - 2) ** 2), extra + 1

    begin = gd.State.create(5.0, gd.sgd(0.1), extra=jnp.zeros(()))
    checkpoint = gd.Checkpoints(tmp_path, every=2)
    done = gd.fit(blows_up, begin, gd.sgd(0.1), steps=9, checkpoint=checkpoint, progress=False)
    assert newest(tmp_path).name == "4"
    assert done.stopped is gd.Stopped.NONFINITE
    np.testing.assert_allclose(done.params, 2 + 3 * 0.8**5, rtol=1e-6)
    again = gd.fit(blows_up, begin, gd.sgd(0.1), steps=9, checkpoint=checkpoint, resume=True, progress=False)
    assert_same_run(again, done)


def test_two_descents_cannot_write_to_one_folder(program, run, tmp_path):
    process = start_process(program, tmp_path, "arrays", slow=0.2)
    wait_for_checkpoint(tmp_path, process)
    try:
        with pytest.raises(gd.CheckpointError, match="is in use by another"):
            run(tmp_path, resume=True)
    finally:
        process.kill()
        process.communicate(timeout=60)
    run(tmp_path, steps=30, resume=True)


class Live:
    """An iterator whose get_state returns its mutable state itself."""

    def __init__(self):
        self.state = {"at": 0}

    def __iter__(self):
        return self

    def __next__(self):
        self.state["at"] += 1
        return np.float32(self.state["at"])

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = dict(state)


def squared_distance(w, b):
    return (w - b) ** 2


def test_the_state_of_an_iterator_is_copied_when_saved(tmp_path):
    uninterrupted = gd.fit(squared_distance, 0.0, gd.sgd(0.1), Live(), steps=20, progress=False)
    for steps in (7, 20):
        done = gd.fit(
            squared_distance, 0.0, gd.sgd(0.1), Live(), steps=steps, progress=False, checkpoint=tmp_path, resume=True
        )
    assert_same_run(done, uninterrupted)


def test_an_exhausted_iterator_is_exhausted_when_resumed(tmp_path):
    for _ in range(2):
        data = iter([np.float32(1), np.float32(2)])
        done = gd.fit(
            squared_distance, 0.0, gd.sgd(0.1), data, steps=9, progress=False, checkpoint=tmp_path, resume=True
        )
        assert (done.stopped, done.history.rows) == (gd.Stopped.EXHAUSTED, 2)


@pytest.mark.parametrize("sharding", ["of the parameters", "of a mesh"])
def test_sharded_parameters_are_resumed_on_all_devices(sharding, tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params, rows = {"w": jnp.arange(8.0)}, np.ones((16, 8), np.float32)
    options = {"batch_size": 8, "checkpoint": tmp_path, "resume": True, "progress": False}
    if sharding == "of the parameters":
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec("data")))
    else:
        options["mesh"] = mesh
    for steps in (3, 6):
        done = gd.fit(lambda p, b: ((b @ p["w"]) ** 2).mean(), params, gd.adam(0.1), rows, steps=steps, **options)
    assert len(done.state.params["w"].sharding.device_set) == 8
    assert done.history.rows == 6


def test_metrics_watched_after_resuming_are_in_the_history_and_json_lines(run, tmp_path):
    tx = gd.adamw(1e-3)
    run(tmp_path, steps=10, tx=tx)
    lines = gd.JsonLines(tmp_path / "metrics.jsonl")
    done = run(tmp_path, steps=20, tx=gd.watch(tx), resume=True, callbacks_more=[lines])
    assert np.isnan(done.history["update_norm"]).tolist() == [True] * 10 + [False] * 10
    assert gd.History.read(tmp_path / "metrics.jsonl").rows == 20


def test_a_criterion_resumes_its_count_and_another_starts_over(tmp_path):
    options = {"progress": False, "checkpoint": tmp_path, "resume": True}
    stop = gd.stop.plateau(40)
    for steps in (25, 100):
        done = gd.fit(lambda w, b: w * 0 + 1.0, 0.0, gd.sgd(0.1), stop=stop, steps=steps, **options)
    assert (done.stopped, int(done.state.count)) == (gd.Stopped.PLATEAU, 41)
    again = gd.fit(lambda w, b: w * 0 + 1.0, 0.0, gd.sgd(0.1), stop=gd.stop.plateau(30), steps=100, **options)
    assert int(again.state.count) == 41 + 31


def test_resuming_from_parameters_starts_the_optimizer_over_only_once(run, tmp_path):
    run(tmp_path, steps=20)
    for steps in (25, 30):  # like starting the same command again
        done = run(tmp_path, steps=steps, tx=gd.adam(1e-3), resume="params")
    assert done.state.opt_state[0].count == 10


def test_after_a_divergence_another_optimizer_resumes_from_the_last_checkpoint(tmp_path):
    options = {"progress": False, "checkpoint": gd.Checkpoints(tmp_path, every=10)}
    diverged = gd.fit(lambda w, b: w**2, 1.0, gd.sgd(1.5), steps=100, **options)
    assert (diverged.stopped, newest(tmp_path).name) == (gd.Stopped.NONFINITE, "60")
    resumed = gd.fit(lambda w, b: w**2, 1.0, gd.sgd(0.25), steps=200, resume="params", **options)
    assert (resumed.stopped, resumed.history.rows) == (gd.Stopped.STEPS, 200)
    np.testing.assert_allclose(resumed.params, 2.0**60 * 0.5**140, rtol=1e-5)


def test_sigterm_in_the_last_dispatch_is_handled(tmp_path):
    def terminate(now):
        if now.step == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        gd.fit(
            squared_distance,
            0.0,
            gd.sgd(0.1),
            Live(),
            steps=30,
            checkpoint=tmp_path,
            progress=False,
            callbacks=[terminate],
        )
    assert ended.value.code == 143
    assert newest(tmp_path).name == "30"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


FULL = textwrap.dedent("""
    import resource, signal, sys
    sys.path.insert(0, sys.argv[1])
    import gdjax as gd
    from descent import run

    def fill(now):
        if now.step >= 60:  # like a disk that is full
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))

    try:
        run(sys.argv[2], callbacks_more=[fill])
    except gd.CheckpointError as error:
        print(error)
""")


def test_a_full_disk_is_reported_and_earlier_checkpoints_can_be_resumed(program, run, uninterrupted, tmp_path):
    command = [sys.executable, "-c", FULL, str(program.parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not be saved" in done.stdout
    assert "file too large" in done.stdout
    assert int(newest(tmp_path).name) >= 30
    assert_same_run(run(tmp_path, resume=True), uninterrupted["arrays"])
