"""Batches of whatever an iterable yields, read ahead."""

import base64
import collections
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax import tree
from gdjax.descent.data.batching import require_numbers

AHEAD = 4
"""Batches of an iterable that lie on the device before they are needed."""


def is_stream(data: Any) -> bool:
    """Whether data are batches one after the other, and no arrays."""
    if isinstance(data, Iterator):
        return True
    if isinstance(data, (str, bytes)):
        return False
    unknown = jax.tree.structure(data) == jax.tree.structure(0)  # to JAX: no container of arrays
    return unknown and not hasattr(data, "dtype") and isinstance(data, Iterable)


class Item(NamedTuple):
    """A batch on the device."""

    batch: Any
    about: dict[str, Any]
    """Where the iterable stands after it, as JSON."""
    ends: bool
    """Whether it is the last of its epoch."""


class Stream:
    """Batches of an iterable, put on the device before they are needed: while the device works, the host reads on.

    With every batch goes the state of the iterator after it, so that what is read ahead is not lost to a checkpoint.

    Args:
      data: the iterable.
      put: puts a batch on the device.
      about: where a descent stood, to go on from: by the iterator's state, or past what it had given.
      epochs: how many are asked for; no further one is begun.
      states: whether the state of the iterator is asked for.
      patient: whether what the iterable fails with is kept until it is asked what is `ready`.
    """

    def __init__(
        self,
        data: Iterable[Any],
        put: Callable[[Any], Any],
        about: dict[str, Any] | None = None,
        epochs: int | None = None,
        states: bool = True,
        patient: bool = False,
    ):
        self._data, self._put, self._epochs, self._states = data, put, epochs, states
        self._patient = patient
        self._failure: Exception | None = None
        self._iterator = iter(data)
        self._epoch, self._position = (about["epoch"], about["position"]) if about else (0, 0)
        self._over = bool(about and about["over"] and isinstance(data, Iterator))
        self._ahead: collections.deque[Item] = collections.deque()
        if about and about["state"] is not None:
            _settable(self._iterator).set_state(_unpacked(about["state"]))
        elif about:
            for skipped in range(self._position):
                if next(self._iterator, _END) is _END:
                    had = f"the {self._position:,} batches that it had given before, got {skipped:,}"
                    raise ValueError(f"fit: on resuming, data must yield {had}.")

    def next(self) -> Item | None:
        """The next batch, or `None` where the iterable has no further epoch."""
        self._fill()
        return self._ahead.popleft() if self._ahead else None

    def peek(self) -> Item | None:
        """What comes next."""
        self._fill()
        return self._ahead[0] if self._ahead else None

    def ready(self, most: int) -> list[Item]:
        """The batches of this epoch that lie ahead, so many at the most.

        Of one that ends the epoch it is known: the last that was read counts only where nothing follows.
        """
        self._fill()
        if self._failure is not None:
            raise self._failure
        known = list(self._ahead) if self._over else list(self._ahead)[:-1]
        ends = next((place for place, item in enumerate(known, 1) if item.ends), most)
        return known[: min(ends, most)]

    def _fill(self) -> None:
        while len(self._ahead) <= AHEAD and not self._over and self._failure is None:
            try:
                self._read()
            except Exception as error:
                if not self._patient:
                    raise
                self._failure = error

    def _read(self) -> None:
        batch = next(self._iterator, _END)
        if batch is _END:
            self._end_epoch()
            return
        self._position += 1
        state = _packed(self._iterator) if self._states else None
        about = {"epoch": self._epoch, "position": self._position, "state": state, "over": False}
        # copied: the iterable may fill one buffer again and again, and what is put may be that very memory
        for path, x in tree.leaves_with_paths(batch):
            require_numbers("batches", x, f" at {path!r}" if path else "")
        own = jax.tree.map(lambda x: np.array(x) if isinstance(x, np.ndarray) else x, batch)
        self._ahead.append(Item(self._put(own), about, ends=False))

    def _end_epoch(self) -> None:
        if not self._position and not self._epoch:
            raise ValueError("fit: data must yield one batch at least, got none.")
        if self._ahead and self._position:
            self._epoch += 1
        self._over = self._epoch == self._epochs or isinstance(self._data, Iterator) or not self._position
        if self._ahead and self._position:
            about = {"epoch": self._epoch, "position": 0, "state": None, "over": self._over}
            self._ahead.append(self._ahead.pop()._replace(ends=True, about=about))
        self._position = 0
        if not self._over:
            self._iterator = iter(self._data)


_END = object()


def _settable(iterator: Any) -> Any:
    if not hasattr(iterator, "set_state"):
        raise TypeError(
            "fit: the checkpoint holds the state of an iterator, and this one has no set_state: "
            f"resume with data as they were, got {type(iterator).__name__}."
        )
    return iterator


def _packed(iterator: Any) -> Any:
    """The state of an iterator as JSON that is its own, `None` if it has none."""
    if not hasattr(iterator, "get_state"):
        return None
    state = iterator.get_state()
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    return {"json": json.loads(json.dumps(state))}


def _unpacked(state: dict[str, Any]) -> Any:
    return base64.b64decode(state["bytes"]) if "bytes" in state else state["json"]
