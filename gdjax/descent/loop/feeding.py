"""Steps with arrays that lie on the device, or with batches that are brought."""

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax.descent.data.batching import Plan
from gdjax.descent.data.iterables import AHEAD, Item, Stream
from gdjax.descent.data.placement import Placement
from gdjax.descent.loop.program import Carry, Compiled
from gdjax.descent.peers import Peers, attempted


class Dispatch(NamedTuple):
    """What a dispatch was."""

    examples: int
    """Of one step."""
    ends_epoch: bool
    """Whether an epoch ended with it."""
    program: Any
    """What is equal for dispatches of one compiled program."""


class Arrays:
    """Steps with batches cut from arrays."""

    about = None
    exhausted = False

    def __init__(self, run: Compiled, data: Any, plan: Plan, peers: Peers):
        self._run, self.data, self._plan, self._peers = run, data, plan, peers
        self._ready: set[Any] = set()

    def sample(self) -> Any:
        """The shapes of a batch."""
        size = self._plan.batch_size
        return jax.eval_shape(lambda data: jax.tree.map(lambda x: x[:size], data), self.data)

    def epoch(self, step: int) -> int:
        """Times through the data that are done."""
        return step // self._plan.per_epoch

    def advance(self, carry: Carry, step: int, most: int) -> tuple[Carry, Dispatch]:
        """Take so many steps at the most."""
        plan, place = self._plan, step % self._plan.per_epoch
        if plan.remainder and place == plan.full:
            self._compile("last", self._run.last, carry, self.data)
            return self._run.last(carry, self.data), Dispatch(plan.remainder, True, "last")
        number = min(most, plan.full - place) if plan.remainder else most
        ends = (place + number) % plan.per_epoch == 0
        self._compile("many", self._run.many, carry, self.data, np.int32(number))
        return self._run.many(carry, self.data, np.int32(number)), Dispatch(plan.batch_size, ends, "many")

    def _compile(self, program: str, function: Any, *arguments: Any) -> None:
        """Have a program compiled in all processes before one begins with it: Gloo waits half a minute for the last."""
        if not self._peers.alone and program not in self._ready:
            function.lower(*arguments).compile()
            self._peers.wait()
            self._ready.add(program)


class Brought:
    """Steps with the batches of an iterable."""

    data = None

    def __init__(self, run: Compiled, data: Iterable[Any], placement: Placement, peers: Peers, **options: Any):
        self._run, self._placement, self._peers = run, placement, peers
        self._stream = peers.together(lambda: Stream(data, placement.brought, patient=not peers.alone, **options))
        self.about: dict[str, Any] | None = options.get("about")
        self.exhausted = False

    def sample(self) -> Any:
        """The first batch."""
        self._agreed(1)
        if (item := self._stream.peek()) is None:
            self.exhausted = True
            return None
        return item.batch

    def epoch(self, step: int) -> int:
        """Times through the data that are done."""
        return self.about["epoch"] if self.about else 0

    def advance(self, carry: Carry, step: int, most: int) -> tuple[Carry, Dispatch]:
        """Take so many steps at the most, none of them in the next epoch."""
        carry = carry._replace(written=self._placement.placed(np.zeros((), np.int32)))
        most = self._agreed(most)
        passed: list[tuple[dict[str, Any], bool]] = []
        shapes: list[tuple[tuple[int, ...], ...]] = []
        while len(passed) < most and not (passed and passed[-1][1]):
            if (item := self._stream.next()) is None:
                self.exhausted = True
                break
            carry = self._run.one(carry, item.batch)
            passed.append((item.about, item.ends))
            shapes.append(tuple(np.shape(x) for x in jax.tree.leaves(item.batch)))
        ends = False
        if taken := int(carry.written):  # fewer than were brought where the descent ended
            self.about, ends = passed[taken - 1]
        first = next((shape for of in shapes for shape in of if shape), (1,))
        return carry, Dispatch(first[0], ends, frozenset(shapes))

    def _agreed(self, most: int) -> int:
        """So many steps at the most; as many as every process has batches for, where there are several."""
        if self._peers.alone:
            return most
        ahead, failure = attempted(lambda: self._stream.ready(most))
        mine = [] if failure else [*ahead]
        kinds = [float(zlib.crc32(_types(item).encode())) for item in mine] + [0.0] * (AHEAD + 1 - len(mine))
        told = self._peers.numbers(-1 if failure else len(mine), bool(mine and mine[-1].ends), *kinds)
        least = int(min(told)[0])
        if least < 0:
            self._peers.end_if_any(failure)
        over = {ends if number == least else 0.0 for number, ends, *_ in told}
        if len(over) > 1 or (least == 0 and max(told)[0] > 0):
            raise ValueError(f"fit: data must yield as many batches an epoch in every process; {self._left(told)}.")
        unlike = [place for place in range(least) if len({of[2 + place] for of in told}) > 1]
        if unlike:
            texts = zip(self._peers.processes, self._peers.texts(_types(mine[unlike[0]])), strict=True)
            parts = ", ".join(f"{text} by that of process {process}" for process, text in texts)
            raise ValueError(
                "fit: data must yield parts of the same shapes and dtypes in every process; a whole batch were, by its "
                f"part, {parts}."
            )
        return max(least, 1)

    def _left(self, told: list[tuple[float, ...]]) -> str:
        """What each process has left of its epoch."""
        left = (
            f"process {process} has {int(number)} left of it" if ends or not number else f"process {process} has more"
            for process, (number, ends, *_) in zip(self._peers.processes, told, strict=True)
        )
        return ", ".join(left)


def _types(item: Item) -> str:
    """The shapes and dtypes of a batch."""
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(item.batch))
