"""The processes of one descent: they exchange numbers and errors, so that all take the same steps."""

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
"""Matches the errors of collectives whose peer process is gone."""

BUFFER_BYTES = 64
"""Smallest buffer for a gathered text; its size doubles, since every size is another compiled program."""


def is_peer_loss(error: BaseException) -> bool:
    """Return whether an error of JAX or Orbax means that a peer process is gone; its first line tells."""
    first = _first_line(error)
    of_xla = isinstance(error, ValueError) and re.match("[A-Z_]+: ", first)  # raised where an array is read
    return bool((of_xla or isinstance(error, (jax.errors.JaxRuntimeError, OrbaxError))) and LOST.search(first))


class Peers:
    """The processes whose devices a mesh has. All call the same methods in the same order, and wait for each other.

    In a single process every method returns at once.

    Args:
      mesh: of the descent; `None` for one device.

    >>> Peers().gather(1.5, 2)
    [(1.5, 2)]
    """

    def __init__(self, mesh: Mesh | None = None):
        self._mesh = mesh
        devices = [] if mesh is None else mesh.devices.flat
        process_of_device = [device.process_index for device in devices] or [jax.process_index()]
        self.processes = sorted({*process_of_device})
        """Their numbers."""
        self._rows = [process_of_device.index(process) for process in self.processes]
        self.is_single = len(self.processes) == 1
        """Is this the only process?"""
        self.is_first = self.is_single or self.processes[0] == jax.process_index()
        """Is this the process that reports and writes for all?"""
        self.have_failed = False
        """Have all failed at the same place, so that they may still do something together?"""

    def agree(
        self, validate: Callable[[], Result], summarize: Callable[[Result], Mapping[str, Any]], who: str = "fit"
    ) -> Result:
        """Validate the inputs in every process, and require the same ones in all.

        Args:
          validate: checks the inputs of this process, and returns them.
          summarize: describes validated inputs by name, as JSON; not called in a single process.
          who: the public function, named in errors.

        Raises:
          ValueError: if an input differs between processes.
          PeerFailedError: if the inputs of another process are invalid.
        """
        inputs = self.call_on_all(validate)
        if difference := self.difference(lambda: summarize(inputs)):
            raise ValueError(f"{who}: every process must be given the same {difference}.")
        return inputs

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        """Return the numbers of every process, in the order of processes."""
        if self.is_single:
            return [numbers]
        rows = self._gather_bytes(np.asarray(numbers, np.float64).view(np.uint8))
        return [tuple(row.view(np.float64).tolist()) for row in rows]

    def gather_texts(self, text: str) -> list[str]:
        """Return the text of every process, in the order of processes."""
        if self.is_single:
            return [text]
        content = np.frombuffer(text.encode(errors="backslashreplace"), np.uint8)
        sizes = [int(size) for (size,) in self.gather(content.size)]
        if not max(sizes):
            return [""] * len(sizes)
        buffer = BUFFER_BYTES << max(0, (max(sizes) - 1) // BUFFER_BYTES).bit_length()
        rows = self._gather_bytes(np.pad(content, (0, buffer - content.size)))
        return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def gather_json(self, value: object) -> list[Any]:
        """Return a value of every process as JSON, in the order of processes."""
        return [json.loads(text) for text in self.gather_texts(json.dumps(value))]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.gather(0.0)

    def call_on_all(self, call: Callable[[], Result]) -> Result:
        """Call a function in every process; if it fails in one, all fail.

        Raises:
          PeerFailedError: if it failed in other processes only, or for the same reason in an earlier one.
        """
        if self.is_single:
            return call()
        result, error = attempt(call)
        self.raise_if_any(error)
        return result

    def from_first(self, call: Callable[[], Result]) -> Result:
        """Call a function in every process, and return the result of the first, which JSON can hold."""
        result = self.call_on_all(call)
        return result if self.is_single else self.gather_json(result)[0]

    def attempt(self, call: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
        """Call a function; several processes get its error as a value, for `raise_if_any`. A single one raises it."""
        return (call(), None) if self.is_single else attempt(call)

    def raise_if_any(self, error: BaseException | None) -> None:
        """Raise in all processes if one has an error: there the error itself, elsewhere a `PeerFailedError`.

        Raises:
          PeerFailedError: as in `call_on_all`.
        """
        mine = "" if error is None else f"{type(error).__name__}: {error}"
        errors = {p: text for p, text in zip(self.processes, self.gather_texts(mine), strict=True) if text}
        if not errors:
            return
        self.have_failed = True
        (process, text), *_ = errors.items()
        if error is not None:
            error.agreed = True  # pyright: ignore[reportAttributeAccessIssue]
        if error is not None and (process == jax.process_index() or mine != text):
            raise error
        failure = PeerFailedError(
            f"fit: process {process} failed, and all processes end: {text.rstrip('.')}. Saved checkpoints stay: start "
            "all of them again, with resume=True where there is a checkpoint."
        )
        failure.agreed = True
        failure.kind = text.partition(":")[0]
        raise failure from error

    def difference(self, summarize: Callable[[], Mapping[str, Any]]) -> str | None:
        """Describe the first difference between the processes' summaries; `None` if there is none.

        Args:
          summarize: returns JSON by name; not called in a single process.
        """
        if self.is_single:
            return None
        first, *others = (json.loads(text) for text in self.gather_texts(json.dumps(summarize(), default=repr)))
        for process, other in zip(self.processes[1:], others, strict=True):
            for name in first | other:
                if (here := first.get(name)) != (there := other.get(name)):
                    return f"{name}, got {here} in process {self.processes[0]} and {there} in process {process}"
        return None

    @contextlib.contextmanager
    def report_loss(self, saved: Callable[[], str]) -> Iterator[None]:
        """Turn the error of a collective into a `PeerLostError` if a peer is gone.

        Args:
          saved: describes the saved checkpoints for its message.
        """
        try:
            yield
        except Exception as error:
            if self.is_single or not is_peer_loss(error):
                raise
            first = _first_line(error)
            cause = first if len(first) <= 200 else f"{first[:197]}..."
            raise PeerLostError(f"fit: another process of this descent was lost ({cause}); {saved()}.") from error

    def _gather_bytes(self, row: np.ndarray) -> np.ndarray:
        """Return the bytes of every process: each of its devices holds a copy, and the first one is read."""
        assert self._mesh is not None
        over_devices = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        rows = jax.make_array_from_callback((self._mesh.size, row.size), over_devices, lambda _: row[None])
        return np.asarray(_replicate(self._mesh)(rows).addressable_data(0))[self._rows]


def attempt(call: Callable[[], Result]) -> tuple[Any, BaseException | None]:
    """Return the result of a call, and its error instead of raising it; an error that means a lost peer is raised."""
    try:
        return call(), None
    except (Exception, SystemExit) as error:
        if is_peer_loss(error):
            raise
        return None, error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=4)
def _replicate(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
