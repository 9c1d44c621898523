"""Feed a descent: dispatch steps on arrays on the device, or on batches of an iterable."""

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax.descent.data.batching import Batching
from gdjax.descent.data.iterables import READ_AHEAD, BatchReader, ReadBatch
from gdjax.descent.data.placement import Placement
from gdjax.descent.loop.program import Carry, Compiled
from gdjax.descent.peers import Peers, attempt
from gdjax.tree import Tree


class Dispatch(NamedTuple):
    """Facts about one dispatch."""

    examples: int
    """Examples of one step."""
    ends_epoch: bool
    program: Any
    """Equal for dispatches of the same compiled program."""


class ArrayFeed:
    """Steps on batches cut from arrays."""

    position = None
    """Arrays need no position in a checkpoint: the count of steps is enough."""
    is_exhausted = False

    def __init__(self, compiled: Compiled, data: Any, batching: Batching, peers: Peers):
        self._compiled, self.data, self._batching, self._peers = compiled, data, batching, peers
        self._ready: set[str] = set()

    def sample(self) -> Tree:
        """Return the shapes of a batch."""
        size = self._batching.batch_size
        return jax.eval_shape(lambda data: jax.tree.map(lambda x: x[:size], data), self.data)

    def epochs_done(self, step: int) -> int:
        """Return the number of completed passes through the data."""
        return step // self._batching.steps_per_epoch

    def advance(self, carry: Carry, step: int, most: int) -> tuple[Carry, Dispatch]:
        """Dispatch at most a given number of steps."""
        batching, place = self._batching, step % self._batching.steps_per_epoch
        if batching.remainder and place == batching.full_batches:
            take = self._compiled.take_incomplete_step
            self._compile("incomplete", take, carry, self.data)
            return take(carry, self.data), Dispatch(batching.remainder, True, "incomplete")
        number = min(most, batching.full_batches - place) if batching.remainder else most
        ends_epoch = (place + number) % batching.steps_per_epoch == 0
        take = self._compiled.take_steps
        self._compile("full", take, carry, self.data, np.int32(number))
        return take(carry, self.data, np.int32(number)), Dispatch(batching.batch_size, ends_epoch, "full")

    def _compile(self, program: str, function: Any, *arguments: Any) -> None:
        """Compile a program in all processes before one starts it: Gloo waits only 30 seconds for the last."""
        if not self._peers.is_single and program not in self._ready:
            function.lower(*arguments).compile()
            self._peers.barrier()
            self._ready.add(program)


class IterableFeed:
    """Steps on the batches of an iterable.

    Args:
      compiled: the program.
      data: the iterable; each process has its own.
      placement: of batches.
      peers: the processes of the descent.
      position: of a checkpoint, from which to resume.
      epochs: wanted.
      saves_state: ask the iterator for its state, for checkpoints.
    """

    data = None

    def __init__(
        self,
        compiled: Compiled,
        data: Iterable[Any],
        placement: Placement,
        peers: Peers,
        position: dict[str, Any] | None = None,
        epochs: int | None = None,
        saves_state: bool = True,
    ):
        self._compiled, self._iterable, self._placement, self._peers = compiled, data, placement, peers
        self._options = {"epochs": epochs, "saves_state": saves_state, "delays_errors": not peers.is_single}
        self.position = position
        """The position after the last step, for a checkpoint."""
        self.is_exhausted = False
        self._reader: BatchReader

    def sample(self) -> Tree:
        """Begin to read, and return the first batch."""
        put, position, options = self._placement.place_local, self.position, self._options
        self._reader = self._peers.call_on_all(lambda: BatchReader(self._iterable, put, position, **options))
        self._available(1)
        if (item := self._reader.peek()) is None:
            self.is_exhausted = True
            return None
        return item.batch

    def epochs_done(self, step: int) -> int:
        """Return the number of completed passes through the data."""
        return self.position["epoch"] if self.position else 0

    def advance(self, carry: Carry, step: int, most: int) -> tuple[Carry, Dispatch]:
        """Dispatch at most a given number of steps, none of them in the next epoch."""
        carry = carry._replace(written=self._placement.place(np.zeros((), np.int32)))
        most = self._available(most)
        used: list[ReadBatch] = []
        shapes: list[tuple[tuple[int, ...], ...]] = []
        while len(used) < most and not (used and used[-1].ends_epoch):
            if (item := self._reader.next()) is None:
                self.is_exhausted = True
                break
            carry = self._compiled.take_step_with(carry, item.batch)
            shapes.append(tuple(np.shape(x) for x in jax.tree.leaves(item.batch)))
            used.append(item._replace(batch=None))
        ends_epoch = False
        if taken := int(carry.written):  # fewer than were dispatched if the descent ended
            self.position, ends_epoch = used[taken - 1].position, used[taken - 1].ends_epoch
        first = next((shape for batch in shapes for shape in batch if shape), (1,))
        return carry, Dispatch(first[0], ends_epoch, frozenset(shapes))

    def _available(self, most: int) -> int:
        """Return how many steps to dispatch: several processes take no more than each has batches for.

        Raises:
          ValueError: if the batches of processes differ in number, shapes or dtypes.
        """
        if self._peers.is_single:
            return most
        items, error = attempt(lambda: self._reader.available(most))
        mine: list[ReadBatch] = [] if error else [*items]
        kinds = [float(zlib.crc32(_types(item).encode())) for item in mine] + [0.0] * (READ_AHEAD + 1 - len(mine))
        counts = self._peers.gather(-1 if error else len(mine), bool(mine and mine[-1].ends_epoch), *kinds)
        least = int(min(counts)[0])
        if least < 0:
            self._peers.raise_if_any(error)
        ends = {ends if number == least else 0.0 for number, ends, *_ in counts}
        if len(ends) > 1 or (least == 0 and max(counts)[0] > 0):
            raise ValueError(
                f"fit: data must yield the same number of batches an epoch in every process; {self._left(counts)}."
            )
        unlike = [place for place in range(least) if len({row[2 + place] for row in counts}) > 1]
        if unlike:
            texts = zip(self._peers.processes, self._peers.gather_texts(_types(mine[unlike[0]])), strict=True)
            shapes = ", ".join(f"{text} by that of process {process}" for process, text in texts)
            raise ValueError(
                "fit: data must yield local batches of the same shapes and dtypes in every process; the global batch "
                f"would be {shapes}."
            )
        return max(least, 1)

    def _left(self, counts: list[tuple[float, ...]]) -> str:
        """Describe how many batches of the epoch each process has left."""
        left = (
            f"process {process} has {int(number)} left of it" if ends or not number else f"process {process} has more"
            for process, (number, ends, *_) in zip(self._peers.processes, counts, strict=True)
        )
        return ", ".join(left)


def _types(item: ReadBatch) -> str:
    """Return the shapes and dtypes of a batch."""
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(item.batch))
