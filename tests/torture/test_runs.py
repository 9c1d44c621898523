"""Starts and ends of a run: signals at any moment, pipes, terminals, full disks, and their messages."""

import contextlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gdjax as gd
from gdjax.descent.loop.saving import Saver
from gdjax.descent.peers import Peers
from gdjax.descent.result import curves
from tests.commands import commands
from tests.processes import environment, python_with_ctrl_c, running, steps_in

ENDLESS = ["parabola", "--steps", str(10**9), "--optimizer", "adam(1e-9)", "--out", "run"]
TO_RESUME = "To resume: gdjax train --resume --out run"


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return environment(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def here(tmp_path, capfd):
    with commands(tmp_path, capfd) as run:
        yield lambda *arguments: run(*arguments, *(["--no-cache"] if arguments[:1] == ("train",) else []))


def python(code, *arguments, env, cwd):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


LIGHT = """
import io, os, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"jax", "jaxlib", "numpy", "optax"}:
            sys.stdout.flush()
            os.write(1, f"imports {name}".encode())
            os._exit(9)
sys.meta_path.insert(0, Refused())
from gdjax.cli import main
for line in sys.argv[1:]:
    sys.argv = ["gdjax", *line.split()]
    try:
        main()
    except SystemExit as ended:
        print(f"[{line}: {int(ended.code or 0)}]")
"""


def test_commands_without_computation_do_not_import_jax(env, tmp_path):
    lines = ["--version", "-h", "--help", "", "train -h", "train --help", "problems -h", "optimizers --help", "trian"]
    lines += ["describe -h", "train --lr 3", "train --config nowhere", "train --resume", "train --mesh 3", "digits"]
    lines += ["train --batch-size x", "train --until x", "train --epochs 1 --steps 1", "--show-completion bash"]
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is given, not detected
    done = python(LIGHT, *lines, env=env | named, cwd=tmp_path)
    assert re.findall(r"\[(.*): (\d+)\]", done.stdout) == [(line, "2" if is_mistake(line) else "0") for line in lines]
    assert "Traceback" not in done.stderr
    assert gd.__version__ in done.stdout


def is_mistake(line):
    """Return whether a command line is a mistake."""
    return line in ("trian", "digits") or (line.startswith("train --") and line != "train --help")


@pytest.mark.parametrize(("shell", "words"), [("bash", "gdjax tr"), ("zsh", "gdjax tr"), ("fish", "gdjax tr")])
def test_shell_completion_does_not_import_jax(env, tmp_path, shell, words):
    variables = {"_GDJAX_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": "1"}
    variables |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = python(LIGHT, "", env=env | variables, cwd=tmp_path)
    assert "train" in done.stdout
    assert "imports" not in done.stdout


def test_train_prints_its_first_line_before_importing_jax(env, tmp_path):
    done = python(LIGHT, "train classification", env=env, cwd=tmp_path)
    assert done.stdout == "classification: loading JAX\nimports jax"


def test_an_unknown_option_is_answered_with_a_suggestion(here):
    suggestions = {
        "--lr": "--optimizer", "-lr": "--optimizer", "--learning-rate": "--optimizer", "--weight_decay": "--optimizer",
        "--momentum": "--optimizer", "--warmup": "--optimizer", "--batch": "--batch-size", "--bs": "--batch-size",
        "--iterations": "--steps", "--max-steps": "--steps", "--num_epochs": "--epochs",
        "--model": "gdjax train digits", "--dataset": "gdjax train digits", "--gpus": "--mesh", "--devices": "--mesh",
        "--output-dir": "--out",
        "--ckpt": "--resume", "--resume-from": "--resume", "--save-freq": "--save-every", "--target": "--until",
        "--cfg": "--config", "--random-seed": "--seed", "--world-size": "--num-processes", "--rank": "--process-id",
        "--device": "JAX_PLATFORMS", "--verbose": "--debug", "--optimiser": "--optimizer", "--untill": "'--until'",
        "--zzz": "there are --",
    }  # fmt: skip
    for option, words in suggestions.items():
        done = here("train", option, "3")
        assert done.returncode == 2
        assert done.stderr.startswith(f"gdjax: No such option: {option}"), done.stderr
        assert words in done.stderr.partition(option)[2], done.stderr
    assert "as in gdjax train --steps" in here("--steps", "3").stderr
    assert "gdjax train digits" in here("digits").stderr
    assert "did you mean '--problem'" in here("describe", "--problm", "x").stderr


def test_errors_name_the_option_or_file_of_the_text(here, tmp_path):
    (tmp_path / "file.toml").write_text('problem = "xyz"\noptimizer = "xyz"\nuntil = "loss<1"\n')
    for arguments, words in {
        ("train", "--problem", "xyz"): "gdjax: --problem: unknown name 'xyz'",
        ("train", "xyz"): "gdjax: PROBLEM: unknown name 'xyz'",
        ("train", "--optimizer", "xyz"): "gdjax: --optimizer: unknown name 'xyz'",
        ("train", "--config", "file.toml"): "gdjax: 'file.toml': problem: unknown name 'xyz'",
        ("train", "parabola", "--config", "file.toml"): "gdjax: 'file.toml': optimizer: unknown name 'xyz'",
        ("describe", "xyz"): "gdjax: EXPR: unknown name 'xyz'",
        ("describe", "sgd(1)", "--problem", "xyz"): "gdjax: --problem: unknown name 'xyz'",
    }.items():
        done = here(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(words)


def test_a_mesh_larger_than_the_devices_is_refused_before_batch_sizes(here):
    for number in (257, 4096, 999_999):
        done = here("train", "--mesh", f"data={number}")
        assert done.returncode == 2
        assert f"--mesh must have at most 256 virtual CPU devices, got {number}" in done.stderr


class Run:
    """A run in a process that receives Ctrl-C; its output goes to files."""

    def __init__(self, processes, folder):
        [self.process], self.folder = processes, folder

    def until(self, seen, timeout=90):
        """Wait until a condition holds."""
        ends = time.monotonic() + timeout
        while not seen():
            assert self.process.running(), self.output()
            assert time.monotonic() < ends, self.output()
            time.sleep(0.005)

    def output(self):
        return [os.pread(stream.fileno(), 4000, 0).decode() for stream in (self.process.out, self.process.err)]

    def send(self, number):
        os.kill(self.process.pid, number)

    def ended(self):
        return self.process.ended(60)


@contextlib.contextmanager
def start_run(env, folder, *arguments):
    with running(python_with_ctrl_c("-m", "gdjax", "train", *arguments), cwd=folder, env=env) as processes:
        yield Run(processes, folder)


NOTHING = re.escape("interrupted.")
NO_STEP_TAKEN = re.escape(f"interrupted; no step was taken. {TO_RESUME}")
SAVED = rf"interrupted after step [\d,]+; checkpoint saved. {re.escape(TO_RESUME)}"
MOMENTS = {
    "python starts": (lambda run: b"gdjax" in cmdline(run), 0.3, NOTHING),
    "jax is imported": (lambda run: "loading JAX" in run.output()[0], 0.2, NOTHING),
    "programs are compiled": (lambda run: "parabola(start" in run.output()[0], 0.0, NO_STEP_TAKEN),
    "steps are taken": (lambda run: "loss" in metrics(run), 0.0, SAVED),
    "it saves": (lambda run: [*(run.folder / "run/checkpoints").glob("*tmp*")], 0.0, SAVED),
}
"""The event to wait for, the seconds to wait after it, and the message of the run."""


def cmdline(run):
    with contextlib.suppress(OSError), open(f"/proc/{run.process.pid}/cmdline", "rb") as file:  # noqa: PTH123
        return b"gdjax" if b"-c" not in file.read().split(b"\0") else b""
    return b"gdjax"


def metrics(run):
    file = run.folder / "run/metrics.jsonl"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_exits_130_with_one_sentence(env, tmp_path, moment):
    seen, later, words = MOMENTS[moment]
    more = ["--save-every", "100"] if moment == "it saves" else []
    with start_run(env, tmp_path, *ENDLESS, *more) as run:
        run.until(lambda: seen(run))
        time.sleep(later)
        run.send(signal.SIGINT)
        status, _, err = run.ended()
    assert status == 130, err
    messages = [line for line in err.splitlines() if not re.match("step |gdjax: Ctrl-C: saving", line)]
    assert re.fullmatch(f"gdjax: {words}", "".join(messages)), err


def test_a_run_killed_soon_after_its_first_step_is_resumed_from_there(env, here, tmp_path):
    """Checkpoints are saved by time: the first within seconds, later ones once a minute."""
    with start_run(env, tmp_path, *ENDLESS) as run:
        run.until(lambda: steps(tmp_path), timeout=50)
        run.send(signal.SIGKILL)
        assert run.ended()[0] == -signal.SIGKILL
    [*_, step] = steps(tmp_path)
    done = here("train", "--resume", "--out", "run", "--steps", step + 1)
    assert done.returncode == 0, done.stderr
    assert f"gdjax: resuming from step {step:,}\n" in done.stderr
    shutil.rmtree(tmp_path / "run/checkpoints")
    done = here("train", "--resume", "--out", "run", "--steps", 3 if step > 3 else step + 1)
    assert "gdjax: no checkpoint yet: starting over\n" in done.stderr


def steps(folder):
    with contextlib.suppress(FileNotFoundError):
        return [step for step in steps_in(folder / "run/checkpoints") if step]
    return []


class Wish:
    seconds, every, best = 60.0, None, ("loss", "min")


@pytest.mark.parametrize(
    ("times", "seconds", "at"),
    [
        ([(0, 0.1), (1, 0.1), (3, 0.1), (5, 0.1), (7, 0.1)], 60.0, 3),
        ([(0, 12.0), (12, 12.0)], 60.0, 0),
        ([(0, 3.0), (3, 3.0), (6, 3.0)], 60.0, 3),
        ([(0, 0.1), (1, 0.1), (3, 0.1)], 1.0, 1),
        ([(0, 20.0), (20, 20.0), (40, 20.0)], float("inf"), None),
    ],
)
def test_the_first_checkpoint_starts_within_five_seconds_or_at_the_last_chance_before(times, seconds, at):
    saver = Saver(None, Peers())
    found = [now for now, waited in times if saver._is_first_due(now, waited, seconds)]
    assert (found[0] if found else None) == at


TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Start a new session with standard input as its terminal, and receive SIGHUP even under `nohup`."""


def test_a_closed_terminal_exits_129_with_a_checkpoint_and_never_hides_the_cursor(env, tmp_path):
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", TERMINAL, sys.executable, "-m", "gdjax", "train", *ENDLESS]
    pipes = {"stdin": follower, "stdout": follower, "stderr": follower}
    process = subprocess.Popen(command, cwd=tmp_path, env=env | {"TERM": "xterm-256color"}, **pipes)
    os.close(follower)
    try:
        seen, until = b"", time.monotonic() + 90
        while b"/1000000000" not in re.sub(rb"[,\s]", b"", seen) and time.monotonic() < until:
            if select.select([leader], [], [], 1.0)[0]:
                seen += os.read(leader, 65536)
        os.close(leader)
        assert process.wait(60) == 129, seen
    finally:
        process.kill()
        process.wait()
    assert b"\x1b[?25l" not in seen  # the cursor stays visible, so no end can leave it hidden
    assert steps(tmp_path)


def test_sigterm_before_the_first_step_exits_143(env, tmp_path):
    with start_run(env, tmp_path, *ENDLESS) as run:
        run.until(lambda: "loading JAX" in run.output()[0])
        run.send(signal.SIGTERM)
        assert run.ended() == (143, "parabola: loading JAX\n", "gdjax: SIGTERM.\n")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "parabola", "--steps", "5"]])
def test_a_closed_output_pipe_exits_141(env, tmp_path, arguments):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "gdjax", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, stdout=writes, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")
    assert not [*tmp_path.iterdir()]


MOUNTED = (
    "mkdir out && mount -t tmpfs -o {options} none out && exec {python} -m gdjax train parabola --out out/run {more}"
)
MOUNTS = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0 if shutil.which(
    "unshare"
) else False  # fmt: skip


@pytest.mark.skipif(not MOUNTS, reason="needs permission to mount a file system")
@pytest.mark.parametrize(
    ("options", "status", "words"),
    [("size=8k", 1, "no space left on device"), ("ro", 2, "cannot be created: read-only file system")],
)
def test_a_full_or_read_only_disk_is_one_sentence(env, tmp_path, options, status, words):
    shell = MOUNTED.format(options=options, python=sys.executable, more="--steps 5")
    with running(["unshare", "-rm", "sh", "-c", shell], cwd=tmp_path, env=env) as [process]:
        ended, _, err = process.ended(90)
    assert ended == status, err
    assert words in err
    assert "Traceback" not in err


def test_the_numbers_of_the_summary_table_agree(here, tmp_path):
    done = here("train", "classification", "--batch-size", 64, "--steps", 300, "--out", "run")
    assert done.returncode in (0, 3), done.stderr
    rows = dict(re.findall(r"^(\S+) +(.*)$", done.stdout, re.M))
    time_, compiling = map(float, re.findall(r"([\d.]+) s", rows["time"]))
    mean, last = (
        float(number.replace(",", "")) for number in re.findall(r"([\d,.]+) (?:mean|last)", rows["examples/s"])
    )
    taken = int(rows["steps"].replace(",", ""))
    assert compiling < time_
    slack = 0.051 * 2 / (time_ - compiling) + 4 / taken  # times are rounded, and compiling includes a step or two
    assert mean == pytest.approx(64 * taken / (time_ - compiling), rel=slack)
    history = gd.History.read(tmp_path / "run/metrics.jsonl")
    assert last == pytest.approx(history["throughput"][-1], rel=0.01)


def history(loss, **evaluated):
    loss = np.asarray(loss, float)
    evaluations = {name: np.asarray(values, float) for name, values in evaluated.items()}
    number = len(next(iter(evaluations.values()), ()))
    return gd.History(
        {"step": np.arange(len(loss)), "loss": loss}, {"step": np.linspace(0, len(loss), number), **evaluations}
    )


def test_zeros_are_visible_on_a_logarithmic_axis():
    of_loss, of_gap = curves(history([1.0, 1e-3, 1e-9, 0.0, 0.0], gap=[1.0, 1e-4, 0.0])).axes
    for axes in (of_loss, of_gap):
        assert axes.get_yscale() == "symlog"
        low, high = axes.get_ylim()
        assert low < 0 < high
        drawn = axes.lines[0].get_ydata()
        heights = axes.transAxes.inverted().transform(axes.transData.transform(np.c_[drawn * 0, drawn]))[:, 1]
        assert np.all((heights > 0) & (heights < 1))
        assert len({round(height, 2) for height in heights}) == len({*drawn})  # distinguishable
    assert [text.get_text() for text in of_loss.texts] == ["linear below 1e-09"]


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        ([100.0, 1.0, 0.01], "log"), ([3.0, 2.0, 0.0], "linear"), ([0.0, 0.0], "linear"), ([1e3, 0.1, -1.0], "linear"),
        ([np.inf, 1e3, 1.0, np.nan], "log"), ([1e30, 1e-30, 0.0], "symlog"), ([np.nan], "linear"),
        ([0.0, 1e-38, 1.0], "symlog"), ([1e-45, 1e-40, 0.0], "symlog"),
    ],
)  # fmt: skip
def test_any_loss_is_plotted_without_a_warning(loss, scale):
    assert curves(history(np.repeat(loss, 3000))).axes[0].get_yscale() == scale
    figure = curves(history(loss, gap=loss))
    assert figure.axes[0].get_yscale() == scale
    figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_nonfinite_values_do_not_hide_their_neighbours_in_a_plot():
    loss = np.ones(10_000)
    loss[::100] = np.inf
    drawn = curves(history(loss)).axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, np.ones(len(drawn)))


def test_an_unwritable_picture_does_not_fail_the_run(here, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/curves.png.tmp").mkdir()
    done = here("train", "parabola", "--steps", 3, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "gdjax: no curves.png: is a directory." in done.stderr
    assert [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
