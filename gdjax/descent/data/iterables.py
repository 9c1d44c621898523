"""Batches of an iterable, read ahead."""

import base64
import collections
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax import tree
from gdjax.descent.data.batching import require_numbers

READ_AHEAD = 4
"""Batches of an iterable that wait on the device."""
_END = object()


def is_iterable_of_batches(data: object) -> bool:
    """Return whether data are batches to iterate over, not arrays of all examples."""
    if isinstance(data, Iterator):
        return True
    if isinstance(data, (str, bytes)):
        return False
    is_leaf = jax.tree.structure(data) == jax.tree.structure(0)  # to JAX: no container of arrays
    return is_leaf and not hasattr(data, "dtype") and isinstance(data, Iterable)


class ReadBatch(NamedTuple):
    """A batch on the device, with the position of the iterable after it."""

    batch: Any
    position: dict[str, Any]
    """JSON with the fields `epoch`, `position`, `state` and `over`, as checkpoints store it."""
    ends_epoch: bool


class BatchReader:
    """Read batches of an iterable onto the device before they are needed, while the device works.

    Every batch carries the state of the iterator after it, so a checkpoint loses no batch that was read ahead.

    Args:
      data: the iterable.
      put: puts a batch on the device.
      position: resume from here: by the iterator's state, or by skipping the batches before it.
      epochs: number of epochs wanted; no further one is begun.
      saves_state: ask the iterator for its state after every batch.
      delays_errors: keep an error of the iterable until `available` is called.
    """

    def __init__(
        self,
        data: Iterable[Any],
        put: Callable[[Any], Any],
        position: dict[str, Any] | None = None,
        epochs: int | None = None,
        saves_state: bool = True,
        delays_errors: bool = False,
    ):
        self._data, self._put, self._epochs, self._saves_state = data, put, epochs, saves_state
        self._delays_errors = delays_errors
        self._error: Exception | None = None
        self._iterator = iter(data)
        self._epoch, self._taken = (position["epoch"], position["position"]) if position else (0, 0)
        self._is_over = bool(position and position["over"] and isinstance(data, Iterator))
        self._waiting: collections.deque[ReadBatch] = collections.deque()
        if position and position["state"] is not None:
            _require_set_state(self._iterator).set_state(_decode_state(position["state"]))
        elif position:
            self._skip(self._taken)

    def _skip(self, number: int) -> None:
        for skipped in range(number):
            if next(self._iterator, _END) is _END:
                raise ValueError(
                    f"fit: to resume, data must yield the {number:,} batches that it yielded before, got {skipped:,}."
                )

    def next(self) -> ReadBatch | None:
        """Remove and return the next batch; `None` where the iterable has no further epoch."""
        self._fill()
        return self._waiting.popleft() if self._waiting else None

    def peek(self) -> ReadBatch | None:
        """Return the next batch and keep it."""
        self._fill()
        return self._waiting[0] if self._waiting else None

    def available(self, most: int) -> list[ReadBatch]:
        """Return the batches of this epoch that are read, at most a given number.

        Whether the last one ends the epoch is unknown until something is read after it; until then it is left out.
        """
        self._fill()
        if self._error is not None:
            raise self._error
        known = list(self._waiting) if self._is_over else list(self._waiting)[:-1]
        ends = next((number for number, item in enumerate(known, 1) if item.ends_epoch), most)
        return known[: min(ends, most)]

    def _fill(self) -> None:
        while len(self._waiting) <= READ_AHEAD and not self._is_over and self._error is None:
            try:
                self._read()
            except Exception as error:
                if not self._delays_errors:
                    raise
                self._error = error

    def _read(self) -> None:
        batch = next(self._iterator, _END)
        if batch is _END:
            self._end_epoch()
            return
        self._taken += 1
        state = _encode_state(self._iterator) if self._saves_state else None
        position = {"epoch": self._epoch, "position": self._taken, "state": state, "over": False}
        for path, x in tree.leaves_with_paths(batch):
            require_numbers("batches", x, f" at {path!r}" if path else "")
        # copied: the iterable may refill one buffer, and JAX may use that very memory
        copied = jax.tree.map(lambda x: np.array(x) if isinstance(x, np.ndarray) else x, batch)
        self._waiting.append(ReadBatch(self._put(copied), position, ends_epoch=False))

    def _end_epoch(self) -> None:
        if not self._taken and not self._epoch:
            raise ValueError("fit: data must yield at least one batch, got none.")
        if self._waiting and self._taken:
            self._epoch += 1
        self._is_over = self._epoch == self._epochs or isinstance(self._data, Iterator) or not self._taken
        if self._waiting and self._taken:
            position = {"epoch": self._epoch, "position": 0, "state": None, "over": self._is_over}
            self._waiting.append(self._waiting.pop()._replace(ends_epoch=True, position=position))
        self._taken = 0
        if not self._is_over:
            self._iterator = iter(self._data)


def _require_set_state(iterator: Any) -> Any:
    if not hasattr(iterator, "set_state"):
        raise TypeError(
            "fit: the checkpoint holds the state of an iterator, and this one has no set_state: "
            f"resume with the same kind of data, got {type(iterator).__name__}."
        )
    return iterator


def _encode_state(iterator: Any) -> dict[str, Any] | None:
    """Return a copy of an iterator's state as JSON; `None` if it has none."""
    if not hasattr(iterator, "get_state"):
        return None
    state = iterator.get_state()
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    return {"json": json.loads(json.dumps(state))}


def _decode_state(state: dict[str, Any]) -> Any:
    return base64.b64decode(state["bytes"]) if "bytes" in state else state["json"]
