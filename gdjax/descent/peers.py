"""What the processes of one descent tell each other, so that all of them take the same steps."""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.descent.errors import OrbaxError, PeerFailedError, PeerLostError

Result = TypeVar("Result")

LOST = re.compile(r"gloo|nccl|connection|socket|unavailable|deadline.exceeded|heartbeat|aborted", re.IGNORECASE)
"""What the errors have in common that a collective ends with where another process is gone."""

ROOM = 64
"""Bytes of a text that is gathered, at least: a text twice as long is another compiled program."""


def is_lost(error: BaseException) -> bool:
    """Whether an error of JAX or Orbax tells that another process is gone: its first line does."""
    first = _first_line(error)
    of_xla = isinstance(error, ValueError) and re.match("[A-Z_]+: ", first)  # where an array is read, it is this
    return bool((of_xla or isinstance(error, (jax.errors.JaxRuntimeError, OrbaxError))) and LOST.search(first))


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
        devices = [] if mesh is None else mesh.devices.flat
        of_devices = [device.process_index for device in devices] or [jax.process_index()]
        self.processes = sorted({*of_devices})
        """Their numbers."""
        self._rows = [of_devices.index(process) for process in self.processes]
        self.alone = len(self.processes) == 1
        """Whether this is the only one."""
        self.first = self.alone or self.processes[0] == jax.process_index()
        """Whether this is the one that speaks for all."""
        self.failed = False
        """Whether all have failed at one place, and may still do something together."""

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
        text = np.frombuffer(mine.encode(errors="backslashreplace"), np.uint8)
        sizes = [int(size) for (size,) in self.numbers(text.size)]
        if not max(sizes):
            return [""] * len(sizes)
        room = ROOM << max(0, (max(sizes) - 1) // ROOM).bit_length()
        rows = self._gathered(np.pad(text, (0, room - text.size)))
        return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def together(self, call: Callable[[], Result]) -> Result:
        """What a call returns that every process makes, each for itself; where it fails in one, all fail.

        Raises:
          PeerFailedError: where it failed in others alone, or in one before this for the same reason.
        """
        if self.alone:
            return call()
        found, failure = attempted(call)
        self.end_if_any(failure)
        return found

    def end_if_any(self, failure: BaseException | None) -> None:
        """Raise in all processes where one failed: there what it was, in others that it was.

        Raises:
          PeerFailedError: as `together`.
        """
        mine = "" if failure is None else f"{type(failure).__name__}: {failure}"
        told = {process: text for process, text in zip(self.processes, self.texts(mine), strict=True) if text}
        if not told:
            return
        self.failed = True
        (process, text), *_ = told.items()
        if failure is not None:
            failure.agreed = True  # pyright: ignore[reportAttributeAccessIssue]
        if failure is not None and (process == jax.process_index() or mine != text):
            raise failure
        error = PeerFailedError(
            f"fit: process {process} failed, and all end with it: {text.rstrip('.')}. What was saved stays: start all "
            "of them again, with resume=True where there is a checkpoint."
        )
        error.agreed = True
        error.kind = text.partition(":")[0]
        raise error from failure

    def differing(self, mine: Callable[[], Mapping[str, Any]]) -> str | None:
        """What the processes have otherwise that all should have alike, in words; `None` if there is nothing.

        Args:
          mine: makes what JSON can hold, by name; it is not called in a process alone.
        """
        if self.alone:
            return None
        first, *others = (json.loads(text) for text in self.texts(json.dumps(mine(), default=repr)))
        for process, other in zip(self.processes[1:], others, strict=True):
            for name in first | other:
                if (here := first.get(name)) != (there := other.get(name)):
                    return f"{name}, got {here} in process {self.processes[0]} and {there} in process {process}"
        return None

    @contextlib.contextmanager
    def losing(self, saved: Callable[[], str]) -> Iterator[None]:
        """Say in one sentence that another process is gone, with what is saved, where a collective tells so."""
        try:
            yield
        except Exception as error:
            if self.alone or not is_lost(error):
                raise
            first = _first_line(error)
            why = first if len(first) <= 200 else f"{first[:197]}..."
            raise PeerLostError(f"fit: another process of this descent was lost ({why}); {saved()}.") from error

    def _gathered(self, row: np.ndarray) -> np.ndarray:
        """The bytes of every process: each of its devices holds a copy, and the first of them is read."""
        assert self._mesh is not None
        over = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        rows = jax.make_array_from_callback((self._mesh.size, row.size), over, lambda _: row[None])
        return np.asarray(_everywhere(self._mesh)(rows).addressable_data(0))[self._rows]


def attempted(call: Callable[[], Result]) -> tuple[Any, BaseException | None]:
    """What a call returns, or what it failed with; but for what tells that another process is gone."""
    try:
        return call(), None
    except (Exception, SystemExit) as error:
        if is_lost(error):
            raise
        return None, error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=4)
def _everywhere(mesh: Mesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
