"""Test the command line as a user runs it: real processes, their files and exit statuses."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import gdjax as gd
from gdjax.cli import main
from gdjax.cli.docstrings import format_page, read_page
from gdjax.descent.checkpoints.store import Store
from tests.processes import environment, python_with_ctrl_c

LONG = ["classification", "--batch-size", "8", "--steps", "5000", "--optimizer", "adam(1e-2)", "--save-every", "200"]
"""Arguments of a run that takes seconds and saves several times a second."""
ENDLESS = ["--steps", "1000000"]
FILES = {".lock", "checkpoints", "config.toml", "curves.png", "metrics.jsonl"}

OWN = """
import jax.numpy as jnp
import gdjax as gd


@gd.problem
def bowl(depth: gd.Positive = 1.0):
    return gd.problems.Parts(
        init=lambda key: jnp.ones(3),
        loss=lambda params, batch: depth * (params**2).sum(),
        optimum=0.0,
        target="gap<1",
        optimizer="sgd(0.1)",
        steps=20,
    )


@gd.problem
def not_scalar():
    return gd.problems.Parts(init=lambda key: jnp.ones(3), loss=lambda params, batch: params)


@gd.problem
def unmeasured():
    x = jnp.arange(12.0)
    return gd.problems.Parts(
        init=lambda key: jnp.zeros(()), loss=lambda w, x: ((w - x) ** 2).mean(), train=x, held_out=x[:3], batch_size=4,
        optimizer="sgd(0.1)", epochs=2, target="loss<100",
    )


shallow = bowl(0.5)
"""


@pytest.fixture(scope="session")
def env(tmp_path_factory):
    """Return the environment of a user with an empty cache."""
    return environment(XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def gdjax(env, tmp_path):
    """Return a function that runs a command in a temporary folder until it ends."""

    def run(*arguments, code=None, **more):
        command = [sys.executable, *(["-c", code] if code else ["-m", "gdjax"]), *map(str, arguments)]
        options = {"cwd": tmp_path, "env": {**env, **more}, "timeout": 200, "check": False}
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)

    return run


@pytest.fixture
def here(monkeypatch, tmp_path, capfd):
    """Return a function that runs a command in this process, which saves the seconds of a start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gdjax", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(sys.argv, ended.value.code, *capfd.readouterr())

    yield run
    for module in ("own", "broken"):
        sys.modules.pop(module, None)


@pytest.fixture
def started(env, tmp_path):
    """Return a function that starts a long run and waits until step 400 is saved."""
    processes = []

    def start(out, *more):
        command = python_with_ctrl_c("-m", "gdjax", "train", *LONG, "--out", out, *more)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=tmp_path, env=env, **pipes)
        processes.append(process)
        until = time.monotonic() + 120
        while not any(step >= 400 for step in steps_saved(tmp_path / out)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def steps_saved(run):
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    return []


def saved(run):
    """Return the step and the arrays of the newest checkpoint, without its throughput."""
    with Store(gd.Checkpoints(run / "checkpoints")) as store:
        step, found = store.newest()
    return step, {name: np.asarray(x) for name, x in found.arrays.items() if "throughput" not in name}


def history_rows(run):
    """Return the rows of the history that a run has written, without its throughput."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "throughput"} for row in rows]


def assert_same_run(one, other):
    """Check that parameters, state, keys and history are bit-identical."""
    (step, arrays), (other_step, others) = saved(one), saved(other)
    assert step == other_step
    assert arrays.keys() == others.keys()
    for name, x in arrays.items():
        assert x.dtype == others[name].dtype, name
        assert x.tobytes() == others[name].tobytes(), name
    assert history_rows(one) == history_rows(other)


def without_progress(stderr):
    """Return the standard error without the progress that a slow machine prints every ten seconds."""
    return "".join(line for line in stderr.splitlines(True) if not re.match(r"step |gdjax: Ctrl-C: saving", line))


def row(done, name):
    """Return the text of a row of the final table."""
    return re.search(rf"^{name}  +(.*)$", done.stdout, re.M)[1]


def refused(done, message, status=2):
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("gdjax: ")
    assert "Traceback" not in done.stderr


def test_train_without_arguments_reaches_its_target_and_config_repeats_it_bit_for_bit(gdjax, tmp_path):
    done = gdjax("train")
    assert done.returncode == 0, done.stderr
    assert not without_progress(done.stderr)
    first = tmp_path / "runs/digits-1"
    assert {path.name for path in first.iterdir()} == FILES
    assert float(row(done, "accuracy")) > 0.97
    assert row(done, "target") == "accuracy>0.97: reached"
    assert row(done, "files") == "runs/digits-1: config.toml, metrics.jsonl, curves.png, checkpoints/"
    assert (first / "curves.png").read_bytes().startswith(b"\x89PNG")
    history = gd.History.read(first / "metrics.jsonl")
    assert history.rows == int(row(done, "steps")) == saved(first)[0]
    assert f"{history['loss'][-1]:.6g}" == row(done, "loss")
    assert f"{history.evaluations['accuracy'][-1]:.6g}" == row(done, "accuracy")

    warm = gdjax("train", "--config", "runs/digits-1/config.toml")
    assert warm.returncode == 0, warm.stderr
    assert not without_progress(warm.stderr)
    assert_same_run(first, tmp_path / "runs/digits-2")
    cold = gdjax("train", "--config", "runs/digits-1/config.toml", "--no-cache")
    assert cold.returncode == 0, cold.stderr
    assert_same_run(first, tmp_path / "runs/digits-3")


@pytest.mark.long
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(gdjax, started, tmp_path):
    process = started("killed")
    process.kill()
    process.wait()
    at = steps_saved(tmp_path / "killed")[-1]
    assert 400 <= at < 5000
    resumed = gdjax("train", "--resume", "--out", "killed")
    assert resumed.returncode == 0, resumed.stderr
    whole = gdjax("train", *LONG[: LONG.index("--save-every")], "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_folder_in_use_is_refused_and_ctrl_c_saves(gdjax, started, tmp_path):
    process = started("out", *ENDLESS)
    refused(gdjax("train", "--resume", "--out", "out"), f"'out' is in use by another run (process {process.pid}): wait")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    step, _ = saved(tmp_path / "out")
    message = f"interrupted after step {step:,}; checkpoint saved. To resume: gdjax train --resume --out out"
    assert without_progress(stderr) == f"gdjax: {message}\n"
    assert re.search(r"^stopped  +Ctrl-C$", stdout, re.M)
    resumed = gdjax("train", "--resume", "--config", "out/config.toml", "--steps", step + 100)
    assert resumed.returncode == 0, resumed.stderr
    assert row(resumed, "steps") == f"{step + 100:,}"


def test_a_resumed_run_can_only_be_extended(gdjax, tmp_path):
    assert gdjax("train", "parabola", "--steps", 100, "--until", "gap<1e-3", "--out", "done").returncode == 0
    refused(gdjax("train", "--resume", "--out", "done", "--until", "gap<1e-1"), "until was gap<0.001, now gap<0.1")
    refused(gdjax("train", "--resume", "--out", "done", "--steps", 3), "steps already, more than the 3 asked for")
    assert gdjax("train", "--resume", "--out", "done", "--until", "gap<1e-6").returncode == 0


def test_sigterm_saves_and_prints_how_to_resume(gdjax, started, tmp_path):
    process = started("out", *ENDLESS)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    step, _ = saved(tmp_path / "out")
    stderr = without_progress(stderr)
    assert stderr.startswith(f"gdjax: SIGTERM after step {step:,}; saved in ")
    assert stderr.endswith("\ngdjax: to resume: gdjax train --resume --out out\n")
    resumed = gdjax("train", "--resume", "--out", "out", "--steps", step + 100)
    assert resumed.returncode == 0, resumed.stderr


def test_until_stops_the_run_and_a_missed_target_has_exit_status_3(gdjax, tmp_path):
    done = gdjax("train", "parabola", "--until", "loss<1e-3")
    assert done.returncode == 0, done.stderr
    history = gd.History.read(tmp_path / "runs/parabola-1/metrics.jsonl")
    assert np.all(history["loss"][:-1] >= 1e-3)
    assert history["loss"][-1] < 1e-3
    assert row(done, "until") == "loss<0.001: reached"
    missed = gdjax("train", "parabola", "--until", "gap<1e-9", "--steps", 5, "--out", "short")
    refused(missed, "gap<1e-09 was not reached. To continue: gdjax train --resume --out short --steps 10", status=3)
    prolonged = gdjax("train", "--resume", "--out", "short", "--steps", 100)
    assert prolonged.returncode == 0, prolonged.stderr
    whole = gdjax("train", "--config", "short/config.toml", "--out", "whole")  # the file has the new length
    assert whole.returncode == 0, whole.stderr
    (_, one), (_, other) = saved(tmp_path / "short"), saved(tmp_path / "whole")
    np.testing.assert_array_equal(one["params/"], other["params/"])


def test_a_nonfinite_loss_fails(gdjax, tmp_path):
    done = gdjax("train", "parabola", "--optimizer", "sgd(3.0)", "--out", "out")
    refused(done, "loss inf, gradient norm", status=1)
    assert "a smaller learning rate" in done.stderr
    assert np.isfinite(saved(tmp_path / "out")[1]["params/"])


def test_resuming_a_different_run_names_the_differences(gdjax):
    assert gdjax("train", "parabola", "--steps", 5, "--out", "out").returncode == 0
    refused(gdjax("train", "parabola", "--out", "out"), "'out' holds a run already: add --resume to resume it")
    other = ["--seed", 3, "--optimizer", "sgd(0.2)", "--steps", 9]
    done = gdjax("train", "--resume", "--out", "out", *other)
    refused(done, "seed was 0, now 3")
    assert "optimizer was sgd(learning_rate=0.1, " in done.stderr
    assert "steps" not in done.stderr
    over = gdjax("train", "--config", "out/config.toml", *other)
    assert over.returncode == 0
    assert "gdjax: not as in out/config.toml: seed was 0, now 3.\n" in over.stderr
    assert "steps was 5, now 9" in over.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diggits"], "PROBLEM: unknown name 'diggits', did you mean 'digits', at column 1"),
        (["nowhere:problem"], "No module named 'nowhere'"),
        (["--problem", "quadratic(condition=0.5)"], "condition must lie in [1, inf), got 0.5"),
        (["--optimizer", "adamv(1e-3)"], "--optimizer: unknown name 'adamv'"),
        (["--optimizer", "constant(1)"], "--optimizer must be a transform, got constant(value=1.0)"),
        (["--optimizer", "adam(1, b1=2)"], "b1 must lie in [0, 1), got 2.0"),
        (["parabola", "--optimizer", 'by_path({"x": sgd(1)})'], "no pattern matches ''"),
        (["--batch-size", "2000"], "--batch-size must be at most 1,437, the rows of digits, got 2,000"),
        (["--batch-size", "many"], "--batch-size must be 'full' or an integer of at least 1, got 'many'"),
        (["parabola", "--batch-size", "2"], "--batch-size is for problems with data, and parabola has none"),
        (["--epochs", "0"], "'--epochs'"),
        (["--epochs", "1", "--steps", "1"], "--epochs and --steps exclude each other"),
        (["parabola", "--until", "gapp<1"], "--until watches 'gapp', did you mean 'gap'"),
        (["parabola", "--until", "gap=1"], "--until must be a metric, < or >, and a number"),
        (["parabola", "--data", "."], "--data is for text; parabola takes none"),
        (["text", "--data", "nowhere"], "--data must be a file or a folder, and there is no"),
        (["text", "--data", "file"], "text:"),
        (["parabola", "--out", "file"], "--out must be a folder, and 'file' is a file"),
        (["parabola", "--out", "file/folder"], "cannot be created: not a directory"),
        (["--config", "file"], "'file' is not valid TOML"),
        (["--config", "nowhere"], "'nowhere' cannot be read: no such file or directory"),
        (["--config", "wrong.toml"], "'wrong.toml': unknown name 'epoch', did you mean 'epochs'"),
        (["--resume"], "--resume needs the folder of the run"),
        (["--resume", "--out", "nowhere"], "'nowhere' holds no run to resume"),
        (["own:not_scalar"], "loss must return a real floating scalar, got float32[3]"),
        (["own:bowel"], "unknown name 'bowel', did you mean 'bowl'"),
        (["broken:problem"], "broken:problem: ZeroDivisionError"),
        (["--optimiser", "sgd(1)"], "No such option: --optimiser"),
    ],
)
def test_wrong_input_prints_one_message_and_creates_no_folder(here, tmp_path, arguments, message):
    (tmp_path / "file").write_text("Nothing of note.\n")
    (tmp_path / "wrong.toml").write_text("epoch = 3\n")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    refused(here("train", *arguments, "--no-cache"), message)
    assert not list(tmp_path.glob("runs/*"))


def test_a_problem_in_a_user_module_runs(gdjax, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    made = gdjax("train", "--problem", "own:shallow")
    assert made.returncode == 0, made.stderr
    assert row(made, "problem") == "own:shallow"
    assert row(made, "target") == "gap<1: reached"
    called = gdjax("train", "own:bowl(0.5)", "--out", "called")
    assert called.returncode == 0, called.stderr
    assert_same_run(tmp_path / "runs/bowl-1", tmp_path / "called")
    again = gdjax("train", "--config", "called/config.toml", "--trust")
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "called", tmp_path / "runs/bowl-2")
    measured = gdjax("train", "own:unmeasured")  # the loss of the last batch differs from the held-out loss
    assert row(measured, "held out loss") != row(measured, "loss")
    assert row(measured, "target") == "held_out_loss<100: reached"


def test_text_trains_on_given_files(gdjax, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("one", "two"):
        (data / name).write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    small = "text(width=8, layers=1, heads=2, length=16)"
    done = gdjax("train", small, "--data", "data", "--steps", 4)
    assert done.returncode == 0, done.stderr
    assert row(done, "data") == str(data)
    assert row(done, "problem").startswith("text(width=8, layers=1, heads=2, length=16, data=None")
    again = gdjax("train", "--config", "runs/text-1/config.toml")
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "runs/text-1", tmp_path / "runs/text-2")


@pytest.mark.long
def test_a_mesh_shards_batches_and_a_run_resumes_on_another_mesh(gdjax, tmp_path):
    arguments = ["train", "classification", "--epochs", "1"]
    two = gdjax(*arguments, "--mesh", "data=2", "--out", "two")
    assert two.returncode == 0, two.stderr
    again = gdjax("train", "--config", "two/config.toml", "--out", "again")
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "two", tmp_path / "again")
    refused(gdjax(*arguments, "--mesh", "data=3"), "--batch-size must be a multiple of the devices of --mesh")
    one = gdjax(*arguments, "--out", "one")
    assert one.returncode == 0, one.stderr
    for out, more in (("one", "data=4"), ("two", "data=1")):
        done = gdjax("train", "--resume", "--out", out, "--epochs", 2, "--mesh", more)
        assert done.returncode == 0, done.stderr
    losses = [[line["loss"] for line in history_rows(tmp_path / out) if "loss" in line] for out in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sam(sgd(0.1))", "lbfgs()"])
def test_optimizers_that_call_the_loss_run(gdjax, optimizer):
    done = gdjax("train", "parabola", "--steps", 3, "--optimizer", optimizer)
    assert done.returncode == 0, done.stderr


def test_averaged_parameters_are_evaluated(gdjax):
    optimizers = "sgd(0.1)", "params_ema(sgd(0.1), decay=0.9)"
    plain, mean = (gdjax("train", "parabola", "--steps", 3, "--optimizer", o) for o in optimizers)
    assert row(plain, "loss") == row(mean, "loss")
    assert float(row(plain, "gap")) < float(row(mean, "gap"))


def test_only_debug_prints_a_traceback(gdjax):
    done = gdjax("train", "diggits", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-4].startswith("gdjax: PROBLEM: unknown name 'diggits'")


def test_without_matplotlib_only_the_plot_is_missing(gdjax, tmp_path):
    code = "import sys; sys.modules['matplotlib.figure'] = None; from gdjax.cli import main; main()"
    done = gdjax("train", "parabola", "--steps", 3, "--out", "out", code=code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "gdjax: no curves.png: plot needs matplotlib: pip install 'gdjax[lab]'\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"curves.png"}


def test_without_typer_it_prints_the_install_command(gdjax):
    done = gdjax(code="import sys; sys.modules['typer'] = None; import gdjax.cli")
    assert done.returncode == 1
    assert done.stderr.startswith("gdjax: the command line needs typer and rich: pip install 'gdjax[train]'")


@pytest.mark.long
def test_an_unreadable_cached_program_is_replaced_silently(gdjax, tmp_path):
    cache = tmp_path / "cache"
    train = ["train", "parabola", "--steps", "3"]
    assert gdjax(*train, XDG_CACHE_HOME=str(cache)).returncode == 0
    whole = {file: file.stat().st_size for file in (cache / "gdjax").glob("*-cache")}
    assert whole
    for file in whole:
        file.write_bytes(file.read_bytes()[:40])
    for _ in range(2):
        done = gdjax(*train, XDG_CACHE_HOME=str(cache))
        assert done.returncode == 0
        assert not done.stderr
    assert max(file.stat().st_size for file in (cache / "gdjax").glob("*-cache")) > 1000
    assert_same_run(tmp_path / "runs/parabola-1", tmp_path / "runs/parabola-3")


@pytest.mark.long
def test_a_terminal_shows_a_progress_bar_and_a_table_with_borders(env, tmp_path):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "gdjax", "train", "parabola", "--steps", "20000", "--optimizer", "adam(0.1)"]
    terminal = {**env, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(command, cwd=tmp_path, env=terminal, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    seen = b""
    with contextlib.suppress(OSError):  # Linux raises it when the other end is closed
        while part := os.read(leader, 65536):
            seen += part
    os.close(leader)
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert "compiling" in text
    assert re.search("[━╸]", text)
    assert re.search("20,?000/20,?000", text)
    assert "\x1b[" in text
    assert re.search(r"target.*gap<1e-09", text)


@pytest.mark.parametrize(
    ("arguments", "contained"),
    [
        ([], "train"),
        (["--help"], "Commands:"),
        (["train", "--help"], "done\n"),
        (["--version"], f"gdjax {gd.__version__}, jax "),
        (["problems"], "1,437 rows"),
        (["optimizers"], "Adam with decoupled weight decay: p ← p - η (u + λ p)"),
        (["optimizers", "adamw"], "adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-08, "),
        (["optimizers", "adamw"], "State: 8 bytes per parameter."),
        (["optimizers", "warmup_cosine"], "x = (t - w) / (T - w)"),
        (["describe", "adamw(1e-3)"], "4 leaves, "),
        (["describe", "sgd(1)", "--problem", "parabola"], "1 leaves, 1 parameters"),
    ],
)
def test_piped_output_is_plain_text_of_at_most_100_columns(gdjax, arguments, contained):
    done = gdjax(*arguments)
    assert done.returncode == 0, done.stderr
    assert contained in done.stdout
    assert not done.stderr
    assert not re.search("[\x1b\u2500-\u259f]", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_unknown_names_have_a_hint(gdjax):
    refused(gdjax("optimizers", "adam_w"), "unknown name 'adam_w', did you mean 'adamw'; gdjax optimizers lists all.")
    refused(gdjax("describe", "sdg(1)"), "EXPR: unknown name 'sdg', did you mean 'sgd'")
    refused(gdjax("trian"), "No such command 'trian'")


def test_the_documentation_of_every_factory_prints_without_markup():
    for name, factory in gd.factories().items():
        page = read_page(name, factory)
        text = format_page(page, 100)
        assert text.startswith(f"{name}("), name
        assert not re.search(r"\\|\$|:math|\.\. \w+::|[\ue000-\uf8ff]| at 0x", text.split("Example:")[0]), name
        if factory.kind is gd.GradientTransform and factory.function.__module__.startswith("gdjax"):
            assert "State" in page.notes or "Stateless" in page.notes, name


@pytest.mark.parametrize("arguments", [["--help"], ["optimizers"], ["describe", "adamw(1e-3)"]])
def test_lists_load_no_unneeded_library(gdjax, arguments):
    code = (
        "import sys, atexit; from gdjax.cli import main\n"
        "atexit.register(lambda: print(*{'orbax', 'sklearn', 'matplotlib'} & {m.split('.')[0] for m in sys.modules}))\n"
        "main()"
    )
    assert gdjax(*arguments, code=code).stdout.splitlines()[-1] == ""


def test_importing_the_command_line_sets_no_cache():
    found = subprocess.run(
        [sys.executable, "-c", "import gdjax.cli, jax; print(jax.config.jax_compilation_cache_dir)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout == "None\n"
