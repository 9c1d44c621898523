"""One run of several processes: how they find each other, and what becomes of them if one is lost."""

import contextlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax

from gdjax.cli import coordinator, peer_monitor, signals
from gdjax.cli.coordinator import Coordinator, require_port
from gdjax.cli.errors import InputError, Status
from gdjax.cli.processes import Group
from gdjax.descent.peers import PeerLostError, is_lost

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
def joined(group: Group, signals: signals.Watch) -> Iterator[Joined]:
    """Join the processes of a run.

    Args:
      group: the processes, as flags or a launcher describe them.
      signals: the watch of signals, which ends the watch of processes before it ends this process.

    Raises:
      InputError: if they do not find each other.
    """
    if group.alone:
        yield Joined(1, Watch())
        return
    if group.coordinator is not None:
        require_port(Coordinator(group.coordinator), first=group.process == 0)
    elif launched := _launched():
        variable = coordinator.ADDRESS if coordinator.ADDRESS in os.environ else coordinator.PORT
        require_port(Coordinator(launched[0], variable), first=launched[1] == 0)
    known = {} if group.coordinator is None else {"cluster_detection_method": "deactivate"}
    # SIGTERM is the descent's, which ends all processes at one step; JAX's own service would swallow it
    jax.config.update("jax_enable_preemption_service", False)
    watch = Watch(subprocess.Popen([sys.executable, "-I", peer_monitor.__file__], stdin=subprocess.PIPE, text=True))
    signals.leaving = watch.end
    try:
        try:
            jax.distributed.initialize(
                group.coordinator, group.number if known else None, group.process,
                heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN,
                **known,  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            way = "--coordinator HOST:PORT of process 0, and but for Open MPI --num-processes and --process-id"
            raise InputError(f"the processes did not find each other: {why.rstrip('.')}; give {way}.") from error
        yield Joined(group.number, watch)
    except BaseException as error:
        if isinstance(error, PeerLostError) or is_lost(error):
            os._exit(Status.FAILED)  # the watch tells why; a shutdown would wait for what is gone
        watch.end()
        raise
    watch.end()


def _launched() -> tuple[str, int] | None:
    """Return the coordinator address and the index of this process that JAX derives from a launcher's variables.

    `None` if they are unknown.
    """
    with contextlib.suppress(Exception):  # JAX's own, which may move or fail; `initialize` then tells why
        cluster = importlib.import_module("jax._src.clusters").ClusterEnv
        address = os.environ.get(coordinator.ADDRESS)
        told = cluster.auto_detect_unset_distributed_params(address, None, None, None, None, 300)
        if isinstance(told[0], str) and isinstance(told[2], int) and re.fullmatch(r".+:\d{1,5}", told[0]):
            return told[0], told[2]
    return None


def hushed(first: bool) -> None:
    """Keep what Gloo says of its connections off the standard output, and all that processes but the first say."""
    sys.stdout.flush()
    own, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    sys.stdout = os.fdopen(own if first else nowhere, "w", encoding="utf-8", errors="replace")
