"""Find the processes of a run from flags or a launcher's variables, without JAX."""

import os
import re
from typing import NamedTuple

from gdjax.cli.errors import InputError

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX")
"""Environment variables in which launchers give the index of a process."""


class ProcessGroup(NamedTuple):
    """Processes of one run."""

    coordinator: str | None = None
    """`HOST:PORT` of process 0, if flags give it."""
    num_processes: int | None = 1
    """Number of processes; `None` if only JAX can find it."""
    process_id: int | None = None
    """Index of this process, from 0, if flags give it."""

    @property
    def is_single(self) -> bool:
        """Return True if this is the only process."""
        return self.num_processes == 1

    @property
    def is_first(self) -> bool:
        """Return True if this is process 0, which prints for all; a guess until the processes have joined."""
        ranks = (self.process_id, *(os.environ.get(name) for name in RANK_VARIABLES))
        return self.is_single or next((int(rank) for rank in ranks if rank is not None), 0) == 0


def process_group(coordinator: str | None, num_processes: int | None, process_id: int | None) -> ProcessGroup:
    """Return the processes of a run, from flags or a launcher; by default this process alone.

    Args:
      coordinator: `HOST:PORT` of process 0.
      num_processes: the number of processes.
      process_id: the index of this process.

    Raises:
      InputError: if the flags are incomplete or contradict each other.
    """
    env = os.environ
    if coordinator is not None and num_processes is None and process_id is None and "OMPI_COMM_WORLD_RANK" in env:
        num_processes, process_id = int(env["OMPI_COMM_WORLD_SIZE"]), int(env["OMPI_COMM_WORLD_RANK"])
    if _has_flags(coordinator, num_processes, process_id):
        return ProcessGroup(coordinator, num_processes, process_id)
    return ProcessGroup(num_processes=_launched_count())


def _has_flags(coordinator: str | None, num_processes: int | None, process_id: int | None) -> bool:
    """Return True if the flags are given; refuse incomplete or wrong ones."""
    flags = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in flags.items() if value is None]
    if missing and len(missing) < len(flags):
        raise InputError(f"{', '.join(flags)} go together: give {' and '.join(missing)} too.")
    if missing:
        return False
    match = re.fullmatch(r"(?:\[[\da-fA-F:]+\]|[^\s:]+):(\d{1,5})", str(coordinator))
    if not match:
        raise InputError(f"--coordinator must be HOST:PORT of process 0, got {coordinator!r}.")
    if not 0 < int(match[1]) < 2**16:
        raise InputError(f"--coordinator: the port must be from 1 to 65535, got {coordinator!r}.")
    if not int(str(process_id)) < int(str(num_processes)):
        raise InputError(f"--process-id must be less than --num-processes {num_processes}, got {process_id}.")
    return True


def _launched_count() -> int | None:
    """Return the number of processes that a launcher started; `None` if JAX has to ask Kubernetes."""
    env = os.environ
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys():
        return None
    slurm_tasks = env.get("SLURM_NTASKS", "1") if "SLURM_STEP_NODELIST" in env else "1"
    return max(int(env.get("OMPI_COMM_WORLD_SIZE", "1")), int(slurm_tasks))
