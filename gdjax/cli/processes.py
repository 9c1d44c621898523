"""The processes of a run, as flags or a launcher describe them; determined without JAX."""

import os
import re
from typing import NamedTuple

from gdjax.cli.errors import InputError


class Group(NamedTuple):
    """The processes of a run."""

    coordinator: str | None = None
    """`HOST:PORT` of process 0, if flags give it."""
    number: int | None = 1
    """The number of processes; `None` where only JAX knows."""
    process: int | None = None
    """The index of this process, from 0, if flags give it."""

    @property
    def alone(self) -> bool:
        """Return whether this is the only process."""
        return self.number == 1

    @property
    def speaks(self) -> bool:
        """Return whether this seems to be process 0, which prints for all; until the processes join, it is a guess."""
        ranks = (self.process, *(os.environ.get(name) for name in RANKS))
        return self.alone or next((int(rank) for rank in ranks if rank is not None), 0) == 0


RANKS = ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX")
"""Environment variables in which launchers give a process its index."""


def group(coordinator: str | None, number: int | None, process: int | None) -> Group:
    """Return the processes of a run, from flags or from a launcher; by default this process alone.

    Args:
      coordinator: `HOST:PORT` of the process 0, where the others find it.
      number: the number of processes.
      process: the index of this one.

    Raises:
      InputError: if the flags do not fit together.
    """
    own = os.environ
    if coordinator is not None and number is None and process is None and "OMPI_COMM_WORLD_RANK" in own:
        number, process = int(own["OMPI_COMM_WORLD_SIZE"]), int(own["OMPI_COMM_WORLD_RANK"])
    given = {"--coordinator": coordinator, "--num-processes": number, "--process-id": process}
    if _complete(given):
        return Group(coordinator, number, process)
    return Group(number=_launched())


def _complete(given: dict[str, str | int | None]) -> bool:
    """Return whether the flags are given; refuse incomplete or wrong ones."""
    coordinator, number, process = given.values()
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(f"{', '.join(given)} go together: give {' and '.join(missing)} too.")
    if missing:
        return False
    found = re.fullmatch(r"(?:\[[\da-fA-F:]+\]|[^\s:]+):(\d{1,5})", str(coordinator))
    if not found:
        raise InputError(f"--coordinator must be HOST:PORT of process 0, got {coordinator!r}.")
    if not 0 < int(found[1]) < 2**16:
        raise InputError(f"--coordinator: a port is a number from 1 to 65535, got {coordinator!r}.")
    if not int(str(process)) < int(str(number)):
        raise InputError(f"--process-id must be less than --num-processes {number}, counted from 0, got {process}.")
    return True


def _launched() -> int | None:
    """Return the number of processes that a launcher started; `None` where JAX has to ask Kubernetes."""
    own = os.environ
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= own.keys():
        return None
    of_slurm = own.get("SLURM_NTASKS", "1") if "SLURM_STEP_NODELIST" in own else "1"
    return max(int(own.get("OMPI_COMM_WORLD_SIZE", "1")), int(of_slurm))
