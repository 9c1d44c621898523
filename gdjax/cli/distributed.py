"""Join the processes of one run through `jax.distributed`, and end them if one is lost."""

import contextlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax

from gdjax.cli import coordinator, peer_monitor
from gdjax.cli.coordinator import Coordinator, require_port
from gdjax.cli.errors import ExitStatus, InputError
from gdjax.cli.processes import ProcessGroup
from gdjax.cli.signals import SignalHandler
from gdjax.descent import PeerLostError, is_peer_loss

HEARTBEAT_TIMEOUT = 10
"""Seconds without a heartbeat after which a process counts as lost, and all exit."""
SHUTDOWN_TIMEOUT = 10
"""Seconds that an exiting process waits for the others."""


class PeerMonitor:
    """Separate process that reports a lost process; none for a run in one process."""

    def __init__(self, process: "subprocess.Popen[str] | None" = None):
        self._process = process

    def send(self, line: str) -> None:
        """Send the folder of the run, or `done`."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Stop the monitor without a report."""
        if self._process is not None:
            self._process.communicate("done\n")


class JoinedProcesses(NamedTuple):
    """Processes of a run that are connected."""

    num_processes: int | None
    """Number of processes; `None` if only JAX knows it."""
    monitor: PeerMonitor


@contextlib.contextmanager
def join_processes(group: ProcessGroup, signal_handler: SignalHandler) -> Iterator[JoinedProcesses]:
    """Join the processes of a run.

    Args:
      group: the processes, as flags or a launcher describe them.
      signal_handler: stops the monitor before it exits.

    Raises:
      InputError: if the processes do not find each other.
    """
    if group.is_single:
        yield JoinedProcesses(1, PeerMonitor())
        return
    if group.coordinator is not None:
        require_port(Coordinator(group.coordinator), is_first=group.process_id == 0)
    elif launched := _launcher_coordinator():
        address, process_id = launched
        variable = coordinator.ADDRESS if coordinator.ADDRESS in os.environ else coordinator.PORT
        require_port(Coordinator(address, variable), is_first=process_id == 0)
    # the descent handles SIGTERM and ends all processes at one step; JAX's preemption service would consume it
    jax.config.update("jax_enable_preemption_service", False)
    script = [sys.executable, "-I", peer_monitor.__file__]
    monitor = PeerMonitor(subprocess.Popen(script, stdin=subprocess.PIPE, text=True))
    signal_handler.before_exit = monitor.stop
    try:
        _initialize(group)
        yield JoinedProcesses(group.num_processes, monitor)
    except BaseException as error:
        if isinstance(error, PeerLostError) or is_peer_loss(error):
            os._exit(ExitStatus.FAILED)  # the monitor reports why; a shutdown would wait for the lost process
        monitor.stop()
        raise
    monitor.stop()


def _initialize(group: ProcessGroup) -> None:
    """Call `jax.distributed.initialize`, which reads the launcher's variables if flags do not give the coordinator."""
    from_flags = group.coordinator is not None
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.num_processes if from_flags else None,
            group.process_id,
            cluster_detection_method="deactivate" if from_flags else None,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        fix = "--coordinator HOST:PORT of process 0, --num-processes and --process-id (Open MPI needs the first only)"
        raise InputError(f"the processes did not find each other: {reason}; give {fix}.") from error


def _launcher_coordinator() -> tuple[str, int] | None:
    """Return the coordinator's address and the index of this process from a launcher's variables, if JAX knows them.

    JAX has no public function for this: `jax.distributed.initialize` detects the address and connects in one call. The
    port must be checked in between. Without the address the check is left out.
    """
    with contextlib.suppress(Exception):
        cluster = importlib.import_module("jax._src.clusters").ClusterEnv
        given = os.environ.get(coordinator.ADDRESS)
        address, _, process_id, _ = cluster.auto_detect_unset_distributed_params(given, None, None, None, None, 300)
        if isinstance(address, str) and isinstance(process_id, int) and re.fullmatch(r".+:\d{1,5}", address):
            return address, process_id
    return None


def silence_stdout(is_first: bool) -> None:
    """Silence the standard output of all processes but the first, and of Gloo in all of them."""
    sys.stdout.flush()
    stdout, devnull = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    sys.stdout = os.fdopen(stdout if is_first else devnull, "w", encoding="utf-8", errors="replace")
