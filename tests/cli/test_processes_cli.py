"""Test `gdjax train` in several processes: they share one run, print once and end together, also if one is lost."""

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
from tests.processes import environment, free_port, output_so_far, running, steps_in, wait_for_all

pytestmark = pytest.mark.long

BATCH = ["classification", "--batch-size", "8", "--optimizer", "adam(1e-2)"]


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))


def commands(number, *arguments):
    """Return the commands of the processes of one run."""
    joined = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", number]
    train = [sys.executable, "-m", "gdjax", "train", *arguments]
    return [[*train, *joined, "--process-id", i] for i in range(number)]


@pytest.fixture
def train(env, tmp_path):
    """Return a function that runs a command in several processes, and returns the output of the first."""

    def run(number, *arguments):
        many = commands(number, *arguments) if number > 1 else [[sys.executable, "-m", "gdjax", "train", *arguments]]
        with running(*many, cwd=tmp_path, env=env) as processes:
            ended = wait_for_all(processes, 150)
        for status, _, err in ended:
            assert status == 0, err
        assert [(out, err) for _, out, err in ended[1:]] == [("", "")] * (number - 1)
        return ended[0]

    return run


@pytest.fixture(scope="module")
def alone(env, tmp_path_factory):
    """Return the losses of a run in one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "gdjax", "train", *BATCH, "--steps", 200, "--out", "run"]
    with running(command, cwd=folder, env=env) as processes:
        [(status, _, err)] = wait_for_all(processes, 60)
    assert status == 0, err
    return losses(folder / "run")[1]


def losses(run):
    """Return the steps and losses in the metrics file of a run."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row], [row["loss"] for row in rows if "loss" in row]


def test_one_two_and_four_processes_resume_each_others_runs(train, alone, tmp_path):
    train(2, *BATCH, "--steps", 40, "--out", "run", "--mesh", "data=4")
    train(1, "--resume", "--out", "run", "--steps", 80)
    _, out, _ = train(4, "--resume", "--out", "run", "--steps", 120)
    assert out.startswith("classification(l2=0.001): loading JAX\nclassification(l2=0.001) in run\n")
    assert "Gloo" not in out
    steps, found = losses(tmp_path / "run")
    assert steps == [*range(120)]
    np.testing.assert_allclose(found, alone[:120], rtol=1e-5)
    assert 'mesh = "data=4"' in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Open MPI's mpirun")
def test_open_mpi_starts_a_run(env, tmp_path):
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 2, sys.executable, "-m", "gdjax", "train"]
    with running([*command, *BATCH, "--steps", 20], cwd=tmp_path, env=env) as processes:
        [(status, out, err)] = wait_for_all(processes, 120)
    assert status == 0, err
    assert "classification(l2=0.001) in runs/classification-1" in out
    assert losses(tmp_path / "runs/classification-1")[0] == [*range(20)]
    assert 'mesh = "data=2"' in (tmp_path / "runs/classification-1" / "config.toml").read_text()


def test_slurm_starts_a_run(env, tmp_path):
    """Start two processes with the variables that `srun` sets."""
    slurm = {"SLURM_JOB_ID": os.getpid(), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": 2}
    command = [sys.executable, "-m", "gdjax", "train", *BATCH, "--steps", 20, "--mesh", "data=2"]
    environments = [slurm | {"SLURM_PROCID": i, "SLURM_LOCALID": i} for i in range(2)]
    many = [["env", *(f"{name}={value}" for name, value in of.items()), *command] for of in environments]
    with running(*many, cwd=tmp_path, env=env) as processes:
        (first, out, err), second = wait_for_all(processes, 120)
    assert (first, second) == (0, (0, "", "")), err
    assert "classification(l2=0.001) in runs/classification-1" in out
    assert losses(tmp_path / "runs/classification-1")[0] == [*range(20)]


@pytest.fixture
def endless(env, tmp_path):
    """Yield two processes of an endless run after a checkpoint is saved."""
    many = commands(2, *BATCH, "--steps", 10**6, "--save-every", 20, "--out", "run", "--mesh", "data=4")
    with running(*many, cwd=tmp_path, env=env) as processes:
        until = time.monotonic() + 120
        while not (tmp_path / "run/checkpoints/40").exists():
            if time.monotonic() > until or not all(process.running() for process in processes):
                pytest.fail(f"nothing was saved: {[output_so_far(process) for process in processes]}")
            time.sleep(0.02)
        yield processes


def test_sigterm_to_one_process_ends_all_at_one_step_and_the_run_resumes(endless, train, alone, tmp_path):
    os.kill(endless[1].pid, signal.SIGTERM)
    (status, _, err), (other, other_out, other_err) = wait_for_all(endless, 60)
    assert (status, other) == (143, 143), err + other_err
    [*_, step] = steps_in(tmp_path / "run/checkpoints")
    assert err.startswith(f"gdjax: SIGTERM after step {step:,}; saved in ")
    assert err.endswith("\ngdjax: to resume: gdjax train --resume --out run\n")
    assert (other_out, other_err) == ("", "")
    train(2, "--resume", "--out", "run", "--steps", step + 10)
    steps, found = losses(tmp_path / "run")
    assert steps == [*range(step + 10)]
    np.testing.assert_allclose(found[: len(alone)], alone[: len(found)], rtol=1e-5)


@pytest.mark.parametrize(("which", "how"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)], ids=lambda x: str(x))
def test_after_a_process_is_lost_the_other_reports_it_and_ends_in_time(endless, tmp_path, which, how):
    os.kill(endless[which].pid, how)
    [(status, _, _)] = wait_for_all([endless[1 - which]], 15)
    assert status != 0
    until, err = time.monotonic() + 5, ""
    while (
        not err.endswith("--out run\n") and time.monotonic() < until
    ):  # the monitor outlives the process that it monitors
        time.sleep(0.02)
        [(_, _, err)] = wait_for_all([endless[1 - which]], 1)
    with Store(gd.Checkpoints(tmp_path / "run/checkpoints")) as store:
        step, _ = store.newest()
    assert err.endswith(
        f"gdjax: a process of this run was lost; the last checkpoint is at step {step:,}. To resume, in all "
        "processes: gdjax train --resume --out run\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "host:1"], "go together: give --num-processes and --process-id too."),
        (["--num-processes", "2", "--process-id", "0"], "go together: give --coordinator too."),
        (["--coordinator", "host", "--num-processes", "2", "--process-id", "0"], "--coordinator must be HOST:PORT"),
        (["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"], "less than --num-processes 2"),
        (["--mesh", "8"], "--mesh must be AXIS=N with at least one device, as in data=8, got '8'"),
        (["--mesh", "data=0"], "as in data=8, got 'data=0'"),
        (["--mesh", "data=4,model=2"], "--mesh must have one axis, got 'data=4,model=2'"),
    ],
)
def test_wrong_flags_are_refused(monkeypatch, capfd, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gdjax", "train", "--no-cache", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_open_mpi_needs_only_the_coordinator(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gdjax", "train", "--no-cache", "--coordinator", "host"])
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    with pytest.raises(SystemExit):
        main()
    assert "--coordinator must be HOST:PORT of process 0, got 'host'" in capfd.readouterr().err


def test_an_error_that_all_processes_find_is_printed_once(env, tmp_path):
    wrong = commands(2, *BATCH, "--mesh", "data=3")
    with running(*wrong, cwd=tmp_path, env=env) as processes:
        first, second = wait_for_all(processes, 60)
    assert (first[0], second[0], second[2]) == (2, 2, "")
    assert "--mesh must have as many devices for each of 2 processes, got 'data=3': give --mesh data=4." in first[2]
    wrong = commands(2, "classification", "--batch-size", "5", "--mesh", "data=4")
    with running(*wrong, cwd=tmp_path, env=env) as processes:
        first, second = wait_for_all(processes, 60)
    assert (first[0], second[0]) == (2, 2)
    assert first[2].startswith("gdjax: --batch-size must be a multiple of the devices of --mesh")
    assert second[2] == ""
    assert not list(tmp_path.glob("runs/*"))


def test_processes_with_different_arguments_end_with_one_message(env, tmp_path):
    one, two = (commands(2, *BATCH, "--steps", steps) for steps in (5, 6))
    port = one[0].index("--coordinator") + 1
    two[1][port] = one[0][port]
    with running(one[0], two[1], cwd=tmp_path, env=env) as processes:
        first, second = wait_for_all(processes, 60)
    assert (first[0], second[0], second[2]) == (2, 2, "")
    assert first[2] == "gdjax: every process must be asked for the same steps, got 5 in process 0 and 6 in process 1.\n"
    assert not list(tmp_path.glob("runs/*"))
