"""What a descent saves of itself, and how it is found again."""

import contextlib
import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from gdjax.descent.checkpoints.disk import require_writable
from gdjax.descent.checkpoints.lock import alone
from gdjax.descent.checkpoints.optimizer_diff import differing
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.orbax import Saved
from gdjax.descent.checkpoints.paths import steps_in
from gdjax.descent.checkpoints.state_keys import keyed, unkeyed
from gdjax.descent.checkpoints.store import Store
from gdjax.descent.errors import CheckpointError
from gdjax.descent.history import History, under
from gdjax.descent.loop import program as loop
from gdjax.descent.peers import Peers
from gdjax.descent.step.step import State
from gdjax.prng import is_key, plain, typed
from gdjax.value.printing import text

EAGER = 6
"""A new best is saved this many times as soon as anything is."""
EARLY = 5.0
"""Seconds from the first step to the first checkpoint at the latest, so that a run that is often killed advances."""


class Found(NamedTuple):
    """A descent as it was saved."""

    state: State
    order_key: jax.Array
    stop: Any
    """The state of the criterion, `None` if it was another one."""
    history: History
    about: dict[str, Any]


class Archive:
    """The checkpoints of one descent; none if none are asked for."""

    def __init__(self, checkpoints: Checkpoints | None, program: loop.Program, resume: bool | str, peers: Peers):
        self._checkpoints, self._program, self._resume, self._peers = checkpoints, program, resume, peers
        self._store: Store | None = None
        self._opened = contextlib.ExitStack()
        self._saved_step, self._saved_at, self._best = -1, time.monotonic(), None
        self._early = True  # nothing is saved by this run yet
        self._first_at: float | None = None  # when its first step ended
        self._asked_at: float | None = None  # when it last asked what is due

    def __enter__(self) -> Self:
        if self._checkpoints is not None:
            with contextlib.ExitStack() as opened:
                self._peers.together(lambda: self._take(opened))
                self._store = opened.enter_context(Store(self._checkpoints, self._peers))
                self._opened = opened.pop_all()
        return self

    def _take(self, opened: contextlib.ExitStack) -> None:
        """Hold the folder; of several processes the first holds it for all."""
        assert self._checkpoints is not None
        if 0 not in self._peers.processes:
            raise CheckpointError(
                "fit: checkpoint must be of a descent that process 0 takes part in, for Orbax writes there alone what "
                f"all have alike; this one is of {self._peers.processes}: leave it out, or begin in a job of its own."
            )
        require_writable(Path(self._checkpoints.folder))
        if self._peers.first:
            opened.enter_context(alone(self._checkpoints.folder))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        self._opened.__exit__(kind, error, where)

    @property
    def folder(self) -> str:
        """Where it is, for people."""
        return str(self._checkpoints and self._checkpoints.folder)

    @property
    def holds(self) -> bool:
        """Whether anything is saved."""
        return self._saved_step >= 0

    @property
    def saved(self) -> str:
        """What is saved, in words."""
        if self._checkpoints is None:
            return "there is no checkpoint"
        steps = steps_in(Path(self.folder))
        has = f"has the checkpoint of step {max(steps):,}" if steps else "has no checkpoint yet"
        return f"{self.folder} {has}: start all of them again with resume=True"

    def found(self, state: State, order_key: jax.Array) -> Found | None:
        """The newest whole checkpoint, placed like the state that the descent would begin with."""
        if self._store is None:
            return None
        if not self._resume:
            step = self._store.latest()
            return self._peers.together(lambda: self._require_empty(step))
        like = _arrays(state, order_key)
        newest = self._store.newest(like)
        if newest is None:
            return None
        self._saved_step, saved = newest
        return self._peers.together(lambda: self._placed(state, order_key, saved))

    def _require_empty(self, step: int | None) -> None:
        if step is not None:
            raise CheckpointError(
                f"fit: {self.folder} holds a descent of {step:,} steps already: resume=True goes on with it, or give "
                "another folder."
            )

    def _require_same(self, about: dict[str, Any]) -> bool:
        """Whether the optimizer is the one of before; refuses what goes on as no one asked for."""
        where = differing(about["optimizer"], self._program.tx)
        if where and self._resume is True:
            raise CheckpointError(
                f'fit: {self.folder} was made under another optimizer: {where}. resume="params" goes on with its '
                'parameters and begins the optimizer\'s state anew, resume="state" takes this too.'
            )
        if about["data"] != (now := repr(self._program.plan)) and self._resume is True:
            raise CheckpointError(
                f"fit: {self.folder} was made with other batches: {about['data']} then, {now} now. "
                'resume="state" goes on with these, where in the data its count says.'
            )
        return not where

    def _placed(self, state: State, order_key: jax.Array, saved: Saved) -> Found:
        arrays, program = saved.arrays, self._program
        same = self._require_same(saved.about)
        goes_on = same or self._resume != "params"
        if (then := saved.about["key"]) != (now := _impl(state.key)):
            raise CheckpointError(f"fit: {self.folder} was made with another kind of key: {then} then, {now} now.")
        placed = State(
            params=self._of("params", arrays, state.params),
            opt_state=self._of("opt_state", arrays, state.opt_state) if goes_on else state.opt_state,
            count=arrays["count"],
            key=typed(arrays["key"], state.key),
            extra=self._of("extra", arrays, state.extra),
        )
        stop = None
        if same and saved.about["stop"] == repr(program.stop):
            init = program.stop.init()
            leaves = [arrays[f"stop/{i}"] for i in range(len(jax.tree.leaves(init)))]
            stop = jax.tree.unflatten(jax.tree.structure(init), leaves)
        history = History.of_arrays(under("history/", arrays))
        about = saved.about | {"stream": self._own_stream(saved.about["stream"])}
        return Found(placed, typed(arrays["order_key"], order_key), stop, history, about)

    def _own_stream(self, streams: list[Any]) -> Any:
        """Where the iterable of this process stood: of several each had its own, unless all had the same."""
        if all(stream == streams[0] for stream in streams):
            return streams[0]
        if len(streams) != len(self._peers.processes):
            raise CheckpointError(
                f"fit: {self.folder} holds the states of the iterators of {len(streams)} processes, and there are "
                f"{len(self._peers.processes)} now: go on with as many, or with data in arrays."
            )
        return streams[self._peers.processes.index(jax.process_index())]

    def due(self, step: int, evaluated: bool, metrics: dict[str, float], waited: float = 0.0) -> bool:
        """Return whether it is time to save: by the clock, by the count, or because an evaluation was the best so far.

        Args:
          step: steps taken.
          evaluated: whether something was evaluated after it.
          metrics: the last value of each.
          waited: seconds that the last dispatch took, without compilation.
        """
        if (wish := self._checkpoints) is None or self._store is None:
            return False
        self._store.check()
        now = time.monotonic()
        since = now - self._saved_at
        better = evaluated and self._is_best(metrics)
        return (
            since >= wish.seconds
            or self._is_early(now, waited, wish.seconds)
            or bool(wish.every and step % wish.every == 0)
            or (better and since >= wish.seconds / EAGER)
        )

    def _is_early(self, now: float, waited: float, seconds: float) -> bool:
        """Return whether to begin the first checkpoint of this run now, since the next chance would be late."""
        if self._first_at is None or self._asked_at is None:
            self._first_at = self._asked_at = now
        interval, self._asked_at = max(waited, now - self._asked_at), now
        return self._early and math.isfinite(seconds) and now - self._first_at + interval >= min(EARLY, seconds)

    def save(self, carry: loop.Carry, history: History, about: dict[str, Any], metrics: dict[str, float]) -> None:
        """Save a descent as it is; the arrays may be donated as soon as this returns."""
        step = int(carry.state.count)
        if self._store is None or step == self._saved_step:
            return
        stop = {f"stop/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(carry.stop))}
        past = {f"history/{name}": x for name, x in history.arrays().items()}
        program = {
            "optimizer": text(self._program.tx),
            "stop": repr(self._program.stop),
            "data": repr(self._program.plan),
            "key": _impl(carry.state.key),
        }
        about = about | {"stream": [json.loads(text) for text in self._peers.texts(json.dumps(about["stream"]))]}
        self._store.save(step, Saved(_arrays(carry.state, carry.order_key) | stop | past, about | program), metrics)
        self._saved_step, self._saved_at, self._early = step, time.monotonic(), False

    def _of(self, part: str, arrays: dict[str, Any], like: Any) -> Any:
        try:
            return unkeyed(under(f"{part}/", arrays), like)
        except ValueError as error:
            raise CheckpointError(
                f"fit: {self.folder} holds other {part} than these: {str(error).removeprefix('unkeyed: ')}"
            ) from None

    def _is_best(self, metrics: dict[str, float]) -> bool:
        assert self._checkpoints is not None
        name, mode = self._checkpoints.best
        value = metrics.get(name, np.nan)
        sign = 1 if mode == "max" else -1
        better = np.isfinite(value) and (self._best is None or sign * value > sign * self._best)
        if better:
            self._best = value
        return bool(better)


def _arrays(state: State, order_key: jax.Array) -> dict[str, Any]:
    """A state as one flat dict of arrays."""
    parts = {"params": state.params, "opt_state": state.opt_state, "extra": state.extra}
    arrays = {f"{part}/{name}": x for part, of in parts.items() for name, x in keyed(of).items()}
    return arrays | {"count": state.count, "key": plain(state.key), "order_key": plain(order_key)}


def _impl(key: jax.Array) -> str:
    return str(jax.random.key_impl(key)) if is_key(key) else "raw"
