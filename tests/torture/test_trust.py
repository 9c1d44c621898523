"""Untrusted files: none runs code without consent, and none redirects a write out of its folder."""

import contextlib
import http.server
import os
import pickle
import pty
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time

import pytest

import gdjax as gd
from gdjax.cli import coordinator
from gdjax.cli.errors import InputError
from gdjax.descent.checkpoints.store import Store
from gdjax.descent.errors import UnsafePathError
from tests.commands import commands
from tests.processes import environment, running, wait_for_all

BOWL = """
import pathlib
pathlib.Path({ran!r}).touch()
import jax.numpy as jnp
import gdjax as gd


@gd.problem
def bowl(depth: gd.Positive = 1.0):
    def loss(params, batch):
        import later
        return later.square(depth, params)

    return gd.problems.Parts(init=lambda key: jnp.ones(3), loss=loss, optimizer="sgd(0.1)", steps=3)
"""


@pytest.fixture
def here(tmp_path, capfd):
    with commands(tmp_path, capfd) as run:
        yield lambda *arguments: run(*arguments, *(["--no-cache"] if arguments[:1] == ("train",) else []))


@pytest.fixture
def stranger(tmp_path):
    """Create a module that leaves a trace when it runs, and a config file that names it; return the trace."""
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(BOWL.format(ran=str(ran)))
    (tmp_path / "later.py").write_text("def square(depth, x):\n    return depth * (x**2).sum()\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").write_text('problem = "evil:bowl(2.0)"\nsteps = 3\n')
    return ran


def assert_refused(done, *words):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


WAYS = [["--config", "run/config.toml"], ["--resume", "--out", "run"], ["--resume", "--config", "run/config.toml"]]


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_only_a_file_names_is_refused(here, stranger, way):
    assert_refused(here("train", *way), "--trust", "config.toml' names the module 'evil' (", "evil.py")
    assert not stranger.exists()


@pytest.mark.parametrize("name", [" evil:bowl", "a.evil:bowl", "antigravity:x", "evil.:bowl", "evil:", "gdjaxx.a:b"])
def test_every_way_to_name_a_module_is_refused(here, stranger, tmp_path, name):
    (tmp_path / "run/config.toml").write_text(f'problem = "{name}"\n')
    assert_refused(here("train", "--config", "run/config.toml"), "--trust")
    assert not stranger.exists()


def test_a_trusted_file_runs(here, stranger):
    assert here("train", "--config", "run/config.toml", "--trust").returncode == 0
    assert stranger.exists()


def test_a_module_named_on_the_command_line_is_imported(here, stranger):
    assert here("train", "evil:bowl(1.0)", "--config", "run/config.toml", "--out", "own").returncode == 0
    assert stranger.exists()
    assert here("train", "evil:bowl(1.0)", "--resume", "--out", "own", "--steps", 5).returncode == 0


def test_a_module_that_another_problem_replaces_is_not_imported(here, stranger):
    done = here("train", "parabola", "--config", "run/config.toml", "--out", "other")
    assert done.returncode == 0, done.stderr
    assert "not as in run/config.toml: problem was evil:bowl(2.0), now parabola(" in done.stderr
    assert_refused(
        here("train", "parabola", "--resume", "--out", "run"), "holds a different run: problem was evil:bowl"
    )
    assert not stranger.exists()


def test_a_module_of_the_package_needs_no_trust(here, tmp_path):
    (tmp_path / "config.toml").write_text('problem = "gdjax.problems.functions:parabola()"\nsteps = 2\n')
    assert here("train", "--config", "config.toml").returncode == 0
    (tmp_path / "config.toml").write_text('problem = "gdjax.__main__:x"\n')
    assert_refused(here("train", "--config", "config.toml"), "config.toml': problem: ")


@pytest.mark.parametrize(("answer", "runs"), [(b"n\n", False), (b"\n", False), (b"\x04", False), (b"yes\n", True)])
def test_at_a_terminal_trust_is_asked_for(stranger, tmp_path, answer, runs):
    stranger.with_name("evil.py").write_text(f"import pathlib\npathlib.Path({str(stranger)!r}).touch()\n")
    status, seen = in_a_terminal(["train", "--config", "run/config.toml"], tmp_path, answer, after=b"[y/N] ")
    assert status == 2
    assert b"names the module 'evil'" in seen
    assert (b"--trust" in seen) is not runs
    assert stranger.exists() is runs


def in_a_terminal(arguments, cwd, answer, after, timeout=60):
    """Run a command on a new terminal; type an answer after some output."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "gdjax", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    seen, typed, until = b"", False, time.monotonic() + timeout
    try:
        with contextlib.suppress(OSError):  # on Linux, the other end is closed
            while time.monotonic() < until:
                if select.select([leader], [], [], 1.0)[0]:
                    seen += os.read(leader, 65536)
                if after in seen and not typed:
                    typed = os.write(leader, answer) > 0
        return process.wait(max(until - time.monotonic(), 1)), seen
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_files_of_the_current_folder_do_not_shadow_libraries(stranger, tmp_path):
    """Neither its `matplotlibrc` nor a link as the cache folder is used."""
    trace = f"import pathlib\npathlib.Path({str(tmp_path / 'shadowed')!r}).touch()\nraise ImportError\n"
    for name in ("jax", "numpy", "typer", "rich", "orbax", "matplotlib", "sklearn", "tensorstore", "optax", "google"):
        (tmp_path / f"{name}.py").write_text(trace)
    (tmp_path / "jax_plugins/evil").mkdir(parents=True)
    (tmp_path / "jax_plugins/evil/__init__.py").write_text(trace)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/gdjax").symlink_to(tmp_path / "elsewhere")
    command = [sys.executable, "-m", "gdjax", "train", "evil:bowl", "--out", "own"]
    with running(command, cwd=tmp_path, env=environment(XDG_CACHE_HOME=str(tmp_path / "cache"))) as processes:
        [(status, _, err)] = wait_for_all(processes, 90)
    assert status == 0, err
    assert stranger.exists()
    assert not (tmp_path / "shadowed").exists()
    assert (tmp_path / "own/curves.png").stat().st_size > 1000
    assert "compiled programs are not kept: " in err
    assert "is a symbolic link" in err
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run a few steps and return the folder of the run."""
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "gdjax", "train", "parabola", "--steps", "5", "--out", "run", "--no-cache"]
    with running(command, cwd=folder) as processes:
        [(status, _, err)] = wait_for_all(processes, 90)
    assert status == 0, err
    return folder / "run"


ENTRIES = [
    ".lock", "config.toml", "metrics.jsonl", "curves.png", "checkpoints", "checkpoints/.lock", "checkpoints/5",
    "checkpoints/5/record", "checkpoints/5/arrays/d", "checkpoints/7.orbax-checkpoint-tmp",
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_link_in_the_folder_of_a_run_is_refused_and_its_target_stays(here, finished, tmp_path, entry):
    shutil.copytree(finished, tmp_path / "run")
    path, target = tmp_path / "run" / entry, tmp_path / "target"
    if path.is_dir() or not path.exists():
        shutil.copytree(path, target) if path.exists() else target.mkdir()
        (target / "precious").write_text("precious")
        shutil.rmtree(path, ignore_errors=True)
    else:
        target.write_bytes(path.read_bytes())
        path.unlink()
    before = contents(target)
    path.symlink_to(target)
    assert_refused(here("train", "--resume", "--out", "run", "--steps", 9), f"run/{entry}'", "symbolic link")
    assert contents(target) == before
    assert path.is_symlink()


def contents(path):
    found = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file): file.read_bytes() for file in found}


@pytest.mark.parametrize("entry", ["config.toml.tmp", "curves.png.tmp", "config.tmp"])
def test_replaced_files_are_not_written_through_a_link(here, finished, tmp_path, entry):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "target").write_text("precious")
    (tmp_path / "run" / entry).symlink_to(tmp_path / "target")
    assert here("train", "--resume", "--out", "run", "--steps", 9).returncode == 0
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.parametrize("entry", [".lock", "metrics.jsonl", "config.toml"])
def test_a_new_run_creates_no_file_through_a_dangling_link(here, tmp_path, entry):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / entry).symlink_to(tmp_path / "target")
    assert_refused(here("train", "parabola", "--steps", 2, "--out", "run"))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("entry", [".lock", "metrics.jsonl", "checkpoints/5/record/metadata"])
def test_a_pipe_in_the_folder_of_a_run_is_refused_at_once(here, finished, tmp_path, entry):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / entry).unlink()
    os.mkfifo(tmp_path / "run" / entry)
    assert_refused(here("train", "--resume", "--out", "run", "--steps", 9), entry, "is a named pipe")


@pytest.mark.parametrize("entry", [".lock", "metrics.jsonl"])
def test_a_file_with_hard_links_is_not_written_to(here, finished, tmp_path, entry):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "target").write_text("precious")
    (tmp_path / "run" / entry).unlink()
    (tmp_path / "run" / entry).hardlink_to(tmp_path / "target")
    assert_refused(here("train", "--resume", "--out", "run", "--steps", 9), entry, "hard links")
    assert (tmp_path / "target").read_text() == "precious"


def test_the_library_does_not_write_through_links(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    history = gd.fit(lambda w, batch: w**2, 1.0, gd.sgd(0.1), steps=2, progress=False).history
    with pytest.raises(UnsafePathError, match="is a symbolic link: remove it"):
        gd.JsonLines(tmp_path / "link")(type("Progress", (), {"history": history}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/.lock").symlink_to(tmp_path / "target")
    with pytest.raises(gd.CheckpointError, match="is a symbolic link: remove it"):
        gd.fit(lambda w, batch: w**2, 1.0, gd.sgd(0.1), steps=2, checkpoint=tmp_path / "folder", progress=False)
    assert not (tmp_path / "target").exists()


def test_links_inside_a_checkpoint_folder_are_accepted(finished, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints/best").symlink_to("5")
    with Store(gd.Checkpoints(tmp_path / "checkpoints")) as store:
        assert store.newest()[0] == 5


class Trace:
    """An object that leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_file_of_a_checkpoint_is_unpickled(finished, tmp_path):
    content = pickle.dumps(Trace(tmp_path / "ran"))
    for number, file in enumerate(sorted((finished / "checkpoints/5").rglob("*"))):
        if file.is_file():
            shutil.copytree(finished / "checkpoints", copy := tmp_path / str(number))
            (copy / file.relative_to(finished / "checkpoints")).write_bytes(content)
            with contextlib.suppress(gd.CheckpointError), Store(gd.Checkpoints(copy)) as store:
                store.newest()
    assert not (tmp_path / "ran").exists()


def test_control_characters_of_a_file_are_escaped(here, tmp_path):
    (tmp_path / "config.toml").write_text('problem = "\\u001b]0;title\\u0007\\u001b[2J"\n')
    done = here("train", "--config", "config.toml")
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr
    assert "\\x1b]0;title" in done.stdout


@pytest.fixture
def data(tmp_path):
    """Return a folder of text that also holds links, pipes and devices."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("one", "sub/two"):
        (folder / name).write_text("the quick brown fox\n" * 60)
    (tmp_path / "secret").write_text("SECRET" * 500)
    (folder / "inside").symlink_to("one")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing")
    (folder / "sub/device").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    return folder


def test_links_out_of_a_data_folder_are_skipped_with_a_warning(data):
    problem = gd.problems.text(width=8, layers=1, heads=2, length=16, data=str(data))
    with pytest.warns(UserWarning, match="since they lead out of it or are not files: ") as warned:
        seen = problem.train
    assert len(warned) == 1
    message = str(warned[0].message)
    for name in ("loop", "nowhere", "outside", "pipe", "sub/device"):
        assert repr(name) in message
    assert "and 1 more" in message
    assert b"SECRET" not in seen.tobytes()
    assert seen.size == 3 * 1200 * 0.9 // 17 * 17  # the link inside counts as its file


def test_a_pipe_as_data_is_refused(here, data):
    assert_refused(here("train", "text", "--data", data / "pipe"), "--data", "file or a folder")


def test_the_first_process_detects_a_port_in_use():
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        port = occupied.getsockname()[1]
        with pytest.raises(InputError, match="the port is in use; give another port, in all processes"):
            coordinator.require_port(coordinator.Coordinator(f"127.0.0.1:{port}"), is_first=True)
    coordinator.require_port(coordinator.Coordinator(f"127.0.0.1:{port}"), is_first=True)


def test_other_processes_detect_that_the_port_is_not_the_coordinators():
    """Ports that are bound, silent, served by another protocol or closed at once are all detected in time."""
    ended = []

    def ask(port):
        try:
            coordinator.require_port(coordinator.Coordinator(f"127.0.0.1:{port}"), is_first=False)
        except InputError as error:
            ended.append(str(error))

    with contextlib.ExitStack() as stack:
        bound, silent = (stack.enter_context(socket.socket()) for _ in range(2))
        for one in (bound, silent):
            one.bind(("127.0.0.1", 0))
        silent.listen()
        web, closing = (
            stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind))
            for kind in (http.server.BaseHTTPRequestHandler, socketserver.BaseRequestHandler)
        )
        for server in (web, closing):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        numbers = [one.getsockname()[1] for one in (bound, silent, web.socket, closing.socket)]
        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(ended) == 4
    assert all("in use by something that is not process 0 of this run; give another port" in text for text in ended)


def test_a_coordinator_says_how_to_change_its_port():
    fixes = {variable: coordinator.Coordinator("h:1", variable).fix for variable in (None, "JAX_COORDINATOR_ADDRESS")}
    assert fixes[None] == "give another port, in all processes"
    assert fixes["JAX_COORDINATOR_ADDRESS"] == "give another port in JAX_COORDINATOR_ADDRESS, in all processes"
    assert str(coordinator.Coordinator("h:1", "JAX_COORDINATOR_ADDRESS")) == "JAX_COORDINATOR_ADDRESS=h:1"


@pytest.mark.parametrize("launcher", [False, True], ids=["flags", "SLURM"])
def test_a_port_in_use_ends_all_processes_with_one_sentence(launcher, tmp_path):
    lowest = 61_440  # of the ports that JAX uses for SLURM: the job number modulo 4,096
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0 if not launcher else next(n for n in range(lowest, 2**16) if is_free(n))))
        occupied.listen()
        port = occupied.getsockname()[1]
        train = [sys.executable, "-m", "gdjax", "train", "parabola"]
        slurm = {"JOB_ID": port - lowest, "STEP_NODELIST": "localhost", "NTASKS": 2}
        per_process = [{"PROCID": i, "LOCALID": i} for i in range(2)]
        variables = [[f"SLURM_{name}={value}" for name, value in {**slurm, **local}.items()] for local in per_process]
        flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id"]
        by_flags = [[*train, *flags, i] for i in range(2)]
        command_lines = [["env", *assignments, *train] for assignments in variables] if launcher else by_flags
        began = time.monotonic()
        with running(*command_lines, cwd=tmp_path) as processes:
            ended = wait_for_all(processes, 90)
    who = f"the coordinator localhost:{port} of the launcher" if launcher else f"--coordinator 127.0.0.1:{port}"
    way = "set JAX_COORDINATOR_PORT to another port" if launcher else "give another port"
    for status, _, err in ended:
        assert status == 2, err
        assert err.startswith(f"gdjax: {who}: the port is in use"), err
        assert err.endswith(f"{way}, in all processes.\n"), err
    assert time.monotonic() - began < 60


def is_free(port):
    with socket.socket() as one, contextlib.suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False
