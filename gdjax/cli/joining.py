"""One run of several processes: how they find each other, and what becomes of them if one is lost."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax

from gdjax.cli import watcher
from gdjax.cli.status import InputError, Status
from gdjax.descent.agreement import PeerLostError, is_lost

HEARTBEAT = 10
"""Seconds without a sign of life after which a process counts as lost, and all end."""
SHUTDOWN = 10
"""Seconds that a process which ends waits for the others."""


class Watch:
    """The process that tells of a lost one; none where there is one process alone."""

    def __init__(self, process: "subprocess.Popen[str] | None" = None):
        self._process = process

    def tell(self, line: str) -> None:
        """Tell it the folder of the run, or that it is `done`."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """Let it go, with nothing to say."""
        if self._process is not None:
            self._process.communicate("done\n")


class Joined(NamedTuple):
    """The processes of a run."""

    number: int | None
    """How many; `None` where only JAX knows."""
    watch: Watch


@contextlib.contextmanager
def joined(coordinator: str | None, number: int | None, process: int | None) -> Iterator[Joined]:
    """Join the processes of a run, by flags or as a launcher says; by default it is this one alone.

    Args:
      coordinator: `HOST:PORT` of the process 0, where the others find it.
      number: of processes.
      process: which of them this is.
    """
    own = os.environ
    if coordinator is not None and number is None and process is None and "OMPI_COMM_WORLD_RANK" in own:
        number, process = int(own["OMPI_COMM_WORLD_SIZE"]), int(own["OMPI_COMM_WORLD_RANK"])
    given = {"--coordinator": coordinator, "--num-processes": number, "--process-id": process}
    by_flags, launched = _complete(given), _launched()
    if (not by_flags and launched == 1) or (by_flags and number == 1):
        yield Joined(1, Watch())
        return
    known = {"cluster_detection_method": "deactivate"} if by_flags else {}
    # SIGTERM is the descent's, which ends all processes at one step; JAX's own service would swallow it
    jax.config.update("jax_enable_preemption_service", False)
    watch = Watch(subprocess.Popen([sys.executable, "-I", watcher.__file__], stdin=subprocess.PIPE, text=True))
    try:
        try:
            jax.distributed.initialize(
                coordinator, number, process, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN,
                **known,  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            way = "--coordinator HOST:PORT of process 0, and but for Open MPI --num-processes and --process-id"
            raise InputError(f"the processes did not find each other: {why.rstrip('.')}; give {way}.") from error
        yield Joined(number if by_flags else launched, watch)
    except BaseException as error:
        if isinstance(error, PeerLostError) or is_lost(error):
            os._exit(Status.FAILED)  # the watch tells why; a shutdown would wait for what is gone
        watch.end()
        raise
    watch.end()


def hushed(first: bool) -> None:
    """Keep what Gloo says of its connections off the standard output, and all that processes but the first say."""
    sys.stdout.flush()
    own, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    sys.stdout = os.fdopen(own if first else nowhere, "w", encoding="utf-8", errors="replace")


def _complete(given: dict[str, str | int | None]) -> bool:
    """Whether the flags are given, all of them and rightly."""
    coordinator, number, process = given.values()
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(f"{', '.join(given)} go together: give {' and '.join(missing)} too.")
    if missing:
        return False
    if not re.fullmatch(r"(\[[\da-fA-F:]+\]|[^\s:]+):\d{1,5}", str(coordinator)):
        raise InputError(f"--coordinator must be HOST:PORT of process 0, got {coordinator!r}.")
    if not int(str(process)) < int(str(number)):
        raise InputError(f"--process-id must be less than --num-processes {number}, counted from 0, got {process}.")
    return True


def _launched() -> int | None:
    """How many processes a launcher started that JAX knows; `None` where it has to ask Kubernetes."""
    own = os.environ
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= own.keys():
        return None
    of_slurm = own.get("SLURM_NTASKS", "1") if "SLURM_STEP_NODELIST" in own else "1"
    return max(int(own.get("OMPI_COMM_WORLD_SIZE", "1")), int(of_slurm))
