"""What is descended on, batch by batch: arrays that stay on the device, or whatever an iterable yields."""

import base64
import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.descent.shuffling import LARGEST, shuffled

AHEAD = 4
"""Batches of an iterable that lie on the device before they are needed."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How arrays of some length are cut into batches, epoch after epoch."""

    examples: int
    batch_size: int
    drop_remainder: bool = True

    @property
    def full(self) -> int:
        """Batches of an epoch that have all their examples."""
        return self.examples // self.batch_size

    @property
    def remainder(self) -> int:
        """Examples in the last batch of an epoch if it has fewer and is not dropped, else 0."""
        return 0 if self.drop_remainder else self.examples % self.batch_size

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return self.full + (self.remainder > 0)

    @property
    def whole(self) -> bool:
        """Whether every batch is all there is: nothing to shuffle, nothing to gather."""
        return self.batch_size == self.examples

    def rows(self, key: jax.Array, count: Any, size: int) -> jax.Array:
        """The examples of the batch of a step: those next in the order of its epoch, each of them once."""
        epoch, batch = count // self.per_epoch, count % self.per_epoch
        return shuffled(jax.random.fold_in(key, epoch), batch * self.batch_size + jnp.arange(size), self.examples)


def plan(data: Any, batch_size: Any, drop_remainder: bool) -> Plan:
    """Check arrays and the size of a batch against each other."""
    if callable(data):
        raise TypeError(f"fit: data must be arrays or an iterable of batches, got the function {data!r}: call it.")
    if isinstance(data, list):
        raise TypeError(
            "fit: data must be arrays in a tuple or dict, or an iterable of batches; a list may be meant as either: "
            "give tuple(data), or iter(data)."
        )
    leaves = list(tree.leaves_with_paths(data))
    if data is None:
        leaves = [("", np.zeros(1))]  # a loss without data: one step is one epoch
    if not leaves:
        raise ValueError(f"fit: data must hold one array at least, got {data!r}; None is for a loss that needs none.")
    for path, leaf in leaves:
        if not jnp.ndim(leaf):
            raise ValueError(f"fit: data must have a first axis of examples, got a scalar at {path!r}.")
    counts = collections.Counter(len(leaf) for _, leaf in leaves)
    examples = counts.most_common(1)[0][0]
    for path, leaf in leaves:
        if len(leaf) != examples:
            others = next(other for other, x in leaves if len(x) == examples)
            raise ValueError(
                f"fit: all data must have as many examples; {path!r} has {len(leaf):,}, {others!r} has {examples:,}."
            )
    if not examples:
        raise ValueError("fit: data must hold one example at least, got none.")
    if examples > LARGEST:
        raise ValueError(f"fit: data must hold {LARGEST:,} examples at the most, got {examples:,}; give an iterable.")
    size = examples if batch_size == "full" else batch_size
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f'fit: batch_size must be "full" or an integer of 1 at least, got {batch_size!r}.')
    if size > examples:
        raise ValueError(
            f"fit: batch_size must be at most the number of examples, {examples:,}, got {size:,}; "
            'batch_size="full" takes all of them.'
        )
    return Plan(examples, size, drop_remainder)


def is_stream(data: Any) -> bool:
    """Whether data are batches one after the other, and no arrays."""
    if isinstance(data, Iterator):
        return True
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
    """

    def __init__(
        self,
        data: Iterable[Any],
        put: Callable[[Any], Any],
        about: dict[str, Any] | None = None,
        epochs: int | None = None,
        states: bool = True,
    ):
        self._data, self._put, self._epochs, self._states = data, put, epochs, states
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

    def ready(self, most: int) -> tuple[int, bool]:
        """How many batches of this epoch lie ahead, so many at the most, and whether the last of them ends it."""
        self._fill()
        number = 0
        for item in list(self._ahead)[:most]:
            number += 1
            if item.ends:
                return number, True
        return number, False

    def _fill(self) -> None:
        while len(self._ahead) <= AHEAD and not self._over:
            self._read()

    def _read(self) -> None:
        batch = next(self._iterator, _END)
        if batch is _END:
            self._end_epoch()
            return
        self._position += 1
        state = _packed(self._iterator) if self._states else None
        about = {"epoch": self._epoch, "position": self._position, "state": state, "over": False}
        # copied: the iterable may fill one buffer again and again, and what is put may be that very memory
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
