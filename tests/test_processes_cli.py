"""`gdjax train` in several processes: one run, one end, one voice; and what is left of it when one is lost."""

import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest

import gdjax as gd
from gdjax.cli import main
from gdjax.descent.checkpoints.store import Store
from tests.processes import all_ended, environment, free_port, running, said, steps_in

pytestmark = pytest.mark.long

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


@pytest.fixture(scope="module")
def alone(env, tmp_path_factory):
    """The losses of one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "gdjax", "train", *BATCH, "--steps", 200, "--out", "run"]
    with running(command, cwd=folder, env=env) as processes:
        [(status, _, err)] = all_ended(processes, 60)
    assert status == 0, err
    return told(folder / "run")[1]


def told(run):
    """The losses in the file of a run, and the steps that they are of."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row], [row["loss"] for row in rows if "loss" in row]


def test_one_two_and_four_processes_go_on_with_each_others_runs(train, alone, tmp_path):
    train(2, *BATCH, "--steps", 40, "--out", "run", "--mesh", "data=4")
    train(1, "--resume", "--out", "run", "--steps", 80)
    _, out, _ = train(4, "--resume", "--out", "run", "--steps", 120)
    assert out.startswith("classification(l2=0.001): loading JAX\nclassification(l2=0.001) in run\n")
    assert "Gloo" not in out
    steps, found = told(tmp_path / "run")
    assert steps == [*range(120)]
    np.testing.assert_allclose(found, alone[:120], rtol=1e-5)
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


def test_slurm_starts_a_run(env, tmp_path):
    """Two processes with what SLURM tells those that `srun` starts."""
    slurm = {"SLURM_JOB_ID": os.getpid(), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": 2}
    command = [sys.executable, "-m", "gdjax", "train", *BATCH, "--steps", 20, "--mesh", "data=2"]
    told_each = [slurm | {"SLURM_PROCID": i, "SLURM_LOCALID": i} for i in range(2)]
    many = [["env", *(f"{name}={value}" for name, value in of.items()), *command] for of in told_each]
    with running(*many, cwd=tmp_path, env=env) as processes:
        (first, out, err), second = all_ended(processes, 120)
    assert (first, second) == (0, (0, "", "")), err
    assert "classification(l2=0.001) in runs/classification-1" in out
    assert told(tmp_path / "runs/classification-1")[0] == [*range(20)]


@pytest.fixture
def endless(env, tmp_path):
    """Two processes of an endless run, of which something is saved."""
    many = commands(2, *BATCH, "--steps", 10**6, "--save-every", 20, "--out", "run", "--mesh", "data=4")
    with running(*many, cwd=tmp_path, env=env) as processes:
        until = time.monotonic() + 120
        while not (tmp_path / "run/checkpoints/40").exists():
            if time.monotonic() > until or not all(process.running() for process in processes):
                pytest.fail(f"nothing was saved: {[said(process) for process in processes]}")
            time.sleep(0.02)
        yield processes


def test_sigterm_to_one_ends_all_at_one_step_and_they_are_resumed(endless, train, alone, tmp_path):
    os.kill(endless[1].pid, signal.SIGTERM)
    (status, _, err), (other, other_out, other_err) = all_ended(endless, 60)
    assert (status, other) == (143, 143), err + other_err
    [*_, step] = steps_in(tmp_path / "run/checkpoints")
    assert err.startswith(f"gdjax: SIGTERM after step {step:,}; saved in ")
    assert err.endswith("\ngdjax: gdjax train --resume --out run goes on.\n")
    assert (other_out, other_err) == ("", "")
    train(2, "--resume", "--out", "run", "--steps", step + 10)
    steps, found = told(tmp_path / "run")
    assert steps == [*range(step + 10)]
    np.testing.assert_allclose(found[: len(alone)], alone[: len(found)], rtol=1e-5)


@pytest.mark.parametrize(("which", "how"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)], ids=lambda x: str(x))
def test_where_a_process_is_lost_the_other_says_so_and_ends_in_time(endless, tmp_path, which, how):
    os.kill(endless[which].pid, how)
    [(status, _, _)] = all_ended([endless[1 - which]], 15)
    assert status != 0
    until, err = time.monotonic() + 5, ""
    while not err.endswith("goes on.\n") and time.monotonic() < until:  # the watcher outlives what it watches
        time.sleep(0.02)
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


def test_open_mpi_says_which_process_it_is_where_the_coordinator_is_given(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gdjax", "train", "--no-cache", "--coordinator", "host"])
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    with pytest.raises(SystemExit):
        main()
    assert "--coordinator must be HOST:PORT of process 0, got 'host'" in capfd.readouterr().err


def test_what_all_processes_find_wrong_is_said_once(env, tmp_path):
    wrong = commands(2, *BATCH, "--mesh", "data=3")
    with running(*wrong, cwd=tmp_path, env=env) as processes:
        first, second = all_ended(processes, 60)
    assert (first[0], second[0], second[2]) == (2, 2, "")
    assert "--mesh must have as many devices for each of 2 processes, got 'data=3': give --mesh data=4." in first[2]
    wrong = commands(2, "classification", "--batch-size", "5", "--mesh", "data=4")
    with running(*wrong, cwd=tmp_path, env=env) as processes:
        first, second = all_ended(processes, 60)
    assert (first[0], second[0]) == (2, 2)
    assert first[2].startswith("gdjax: --batch-size must be a multiple of the devices of --mesh")
    assert second[2] == ""
    assert not list(tmp_path.glob("runs/*"))


def test_what_the_processes_are_asked_for_unlike_ends_all_in_a_sentence(env, tmp_path):
    one, two = (commands(2, *BATCH, "--steps", steps) for steps in (5, 6))
    port = one[0].index("--coordinator") + 1
    two[1][port] = one[0][port]
    with running(one[0], two[1], cwd=tmp_path, env=env) as processes:
        first, second = all_ended(processes, 60)
    assert (first[0], second[0], second[2]) == (2, 2, "")
    assert first[2] == "gdjax: every process must be asked for the same steps, got 5 in process 0 and 6 in process 1.\n"
    assert not list(tmp_path.glob("runs/*"))
