"""What the processes of one descent tell each other, so that all of them take the same steps."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.descent.faults import OrbaxError

Result = TypeVar("Result")

LOST = re.compile(r"gloo|nccl|connection|socket|unavailable|deadline.exceeded|heartbeat|aborted", re.IGNORECASE)
"""What the errors have in common that a collective ends with where another process is gone."""

ROOM = 64
"""Bytes of a text that is gathered, at least: a text twice as long is another compiled program."""


class PeerLostError(RuntimeError):
    """Another process of the descent is gone: the message says what is saved, and how to go on."""


class PeerFailedError(RuntimeError):
    """Another process of the descent failed, and says why itself; all end together."""


class Peers:
    """The processes whose devices a mesh has. All call the same methods in the same order, and wait for each other.

    One process alone hears what it says itself, at once.

    Args:
      mesh: of the descent; `None` for one device.

    >>> Peers().numbers(1.5, 2)
    [(1.5, 2)]
    """

    def __init__(self, mesh: Mesh | None = None):
        self._mesh = mesh
        of_devices = [0] if mesh is None else [device.process_index for device in mesh.devices.flat]
        self.processes = sorted({*of_devices})
        """Their numbers."""
        self._rows = [of_devices.index(process) for process in self.processes]
        self.alone = len(self.processes) == 1
        """Whether this is the only one."""
        self.first = self.alone or self.processes[0] == jax.process_index()
        """Whether this is the one that speaks for all."""

    def numbers(self, *mine: float) -> list[tuple[float, ...]]:
        """Those of every process, in their order."""
        if self.alone:
            return [mine]
        rows = self._gathered(np.asarray(mine, np.float64).view(np.uint8))
        return [tuple(row.view(np.float64).tolist()) for row in rows]

    def wait(self) -> None:
        """Wait until all are here."""
        self.numbers(0.0)

    def texts(self, mine: str) -> list[str]:
        """Those of every process, in their order."""
        if self.alone:
            return [mine]
        text = np.frombuffer(mine.encode(), np.uint8)
        sizes = [int(size) for (size,) in self.numbers(text.size)]
        room = ROOM << max(0, (max(sizes) - 1) // ROOM).bit_length()
        rows = self._gathered(np.pad(text, (0, room - text.size)))
        return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def together(self, call: Callable[[], Result]) -> Result:
        """What a call returns that every process makes, each for itself; where it fails in one, all fail.

        Raises:
          PeerFailedError: where it failed in others alone, or in the first process for the same reason.
        """
        if self.alone:
            return call()
        found: Any = None
        failure: Exception | None = None
        try:
            found = call()
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            failure = error
        told = self.texts("" if failure is None else f"{type(failure).__name__}: {failure}")
        failed = [(process, text) for process, text in zip(self.processes, told, strict=True) if text]
        if not failed:
            return found
        if failure is not None and (self.first or f"{type(failure).__name__}: {failure}" != failed[0][1]):
            raise failure
        raise PeerFailedError(f"process {failed[0][0]} failed: {failed[0][1]}") from failure

    @contextlib.contextmanager
    def losing(self, saved: Callable[[], str]) -> Iterator[None]:
        """Say in one sentence that another process is gone, with what is saved, where a collective tells so."""
        try:
            yield
        except (jax.errors.JaxRuntimeError, OrbaxError) as error:
            first = (str(error).splitlines() or [""])[0]
            if self.alone or not LOST.search(first):
                raise
            why = first if len(first) <= 200 else f"{first[:197]}..."
            raise PeerLostError(f"fit: another process of this descent was lost ({why}); {saved()}.") from error

    def _gathered(self, row: np.ndarray) -> np.ndarray:
        """The bytes of every process: each of its devices holds a copy, and the first of them is read."""
        assert self._mesh is not None
        over = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        rows = jax.make_array_from_callback((self._mesh.size, row.size), over, lambda _: row[None])
        return np.asarray(_everywhere(self._mesh)(rows).addressable_data(0))[self._rows]


@functools.lru_cache(maxsize=4)
def _everywhere(mesh: Mesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
