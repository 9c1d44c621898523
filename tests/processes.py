"""Processes that tests start and signal; none outlives its test."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
ROOT = pathlib.Path(__file__).parents[1]
CALLING = """
import importlib, json, pathlib, sys, jax
address, number, index, devices, module, name, arguments, found = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
jax.distributed.initialize(
    address, int(number), int(index), cluster_detection_method="deactivate", heartbeat_timeout_seconds=10,
    shutdown_timeout_seconds=30,
)
result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
pathlib.Path(found).write_text(json.dumps(result))
"""


def python_with_ctrl_c(*arguments):
    """Return a command of Python that receives Ctrl-C even when started in the background of a shell."""
    python = sys.executable
    return [python, "-c", HEARING, python, *map(str, arguments)]


def free_port():
    """Return a free port of this machine."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(**more):
    """Return environment variables for one CPU device; programs compile as in the other tests."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**kept, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), **more}


class Process:
    """A process in a new process group."""

    def __init__(self, command, cwd, env):
        self.out, self.err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115  (closed by `kill`)
        self._process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, env=env, stdout=self.out, stderr=self.err, start_new_session=True
        )
        self.pid = self._process.pid

    def running(self):
        return self._process.poll() is None

    def ended(self, timeout):
        """Wait for the process; return its status, standard output and standard error."""
        status = self._process.wait(timeout)
        for stream in (self.out, self.err):
            stream.seek(0)
        return status, self.out.read(), self.err.read()

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.out.close()
        self.err.close()


@contextlib.contextmanager
def running(*commands, cwd=ROOT, env=None):
    """Start processes of these commands, and kill those that still run at the end."""
    processes = []
    try:
        for command in commands:
            processes.append(Process(command, cwd, environment() if env is None else env))
        yield processes
    finally:
        for process in processes:
            process.kill()


def wait_for_all(processes, timeout):
    """Wait for all processes and return their statuses and outputs; after the timeout the test fails."""
    until = time.monotonic() + timeout
    try:
        return [process.ended(max(until - time.monotonic(), 0.01)) for process in processes]
    except subprocess.TimeoutExpired:
        raise AssertionError(
            f"after {timeout} s they still run: {[output_so_far(process) for process in processes]}"
        ) from None


def in_processes(number, function, *arguments, devices=None, timeout=120):
    """Return the results of a function in each of the processes that JAX has joined.

    Args:
      number: number of processes.
      function: a function at the top level of a module of the tests.
      arguments: its arguments; arguments and results must be JSON values.
      devices: number of devices of all processes together; by default one each.
      timeout: seconds after which the processes are killed and the test fails.
    """
    each = (devices or number) // number
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        found = [pathlib.Path(folder) / str(index) for index in range(number)]
        command = [sys.executable, "-W", "error", "-c", CALLING, address, number]
        called = [function.__module__, function.__name__]
        commands = [[*command, i, each, *called, json.dumps(arguments), found[i]] for i in range(number)]
        with running(*commands) as processes:
            for status, out, err in wait_for_all(processes, timeout):
                assert status == 0, f"{out[-2000:]}\n{err[-6000:]}"
        return [json.loads(file.read_text()) for file in found]


def steps_in(folder):
    """Return the steps of the checkpoints in a folder."""
    with os.scandir(folder) as found:
        return sorted(int(entry.name) for entry in found if entry.name.isdigit())


def output_so_far(process):
    """Return the output of a process so far."""
    parts = []
    for stream in (process.out, process.err):
        stream.seek(0)
        parts.append(stream.read()[-2000:])
    return parts
