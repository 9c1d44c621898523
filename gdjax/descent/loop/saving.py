"""Save a descent to its checkpoints: when, and in which form."""

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from gdjax.descent.checkpoints.disk import require_writable
from gdjax.descent.checkpoints.lock import lock_folder
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.orbax import Saved
from gdjax.descent.checkpoints.paths import checkpoint_steps
from gdjax.descent.checkpoints.state_keys import state_arrays
from gdjax.descent.checkpoints.store import Store
from gdjax.descent.data.batching import Batching
from gdjax.descent.errors import CheckpointError
from gdjax.descent.history import History
from gdjax.descent.loop.program import Carry, Program
from gdjax.descent.peers import Peers
from gdjax.descent.step.step import State
from gdjax.prng import is_key, raw
from gdjax.value.printing import text

BEST_SPEEDUP = 6
"""A new best is saved after this fraction of the usual interval."""
FIRST_SECONDS = 5.0
"""Longest time from the first step to the first checkpoint, so that a run that is often killed advances."""


class Saver:
    """Save a descent when it is due. It locks the folder while it is open, and does nothing without one.

    Args:
      options: the folder, the intervals, and which checkpoints are kept; `None` saves nothing.
      peers: the processes of the descent.
    """

    def __init__(self, options: Checkpoints | None, peers: Peers):
        self.options, self._peers = options, peers
        self.store: Store | None = None
        self.saved_step = -1
        """Step of the newest checkpoint of this descent; -1 if there is none."""
        self._opened = contextlib.ExitStack()
        self._saved_at, self._best = time.monotonic(), None
        self._has_saved = False  # in this run
        self._first_step_at: float | None = None
        self._last_asked_at: float | None = None

    def __enter__(self) -> Self:
        if self.options is not None:
            options = self.options
            with contextlib.ExitStack() as opened:
                self._peers.call_on_all(lambda: self._lock(options, opened))
                self.store = opened.enter_context(Store(options, self._peers))
                self._opened = opened.pop_all()
        return self

    def _lock(self, options: Checkpoints, opened: contextlib.ExitStack) -> None:
        """Lock the folder; the first process locks it for all."""
        if 0 not in self._peers.processes:
            raise CheckpointError(
                "fit: checkpoint needs process 0, in which alone Orbax writes replicated arrays; this descent runs in "
                f"processes {self._peers.processes}. Leave it out, or run the descent in a job with process 0."
            )
        require_writable(Path(options.folder))
        if self._peers.is_first:
            opened.enter_context(lock_folder(options.folder))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        self._opened.__exit__(kind, error, where)

    @property
    def folder(self) -> str:
        """The folder as the user wrote it."""
        return str(self.options and self.options.folder)

    @property
    def has_checkpoint(self) -> bool:
        """Is there a checkpoint of this descent?"""
        return self.saved_step >= 0

    @property
    def status(self) -> str:
        """The newest checkpoint in words, with the way to resume."""
        if self.options is None:
            return "there is no checkpoint"
        steps = checkpoint_steps(Path(self.folder))
        has = f"has the checkpoint of step {max(steps):,}" if steps else "has no checkpoint yet"
        return f"{self.folder} {has}: start all of them again with resume=True"

    def is_due(self, step: int, evaluated: bool, metrics: Mapping[str, float], waited: float = 0.0) -> bool:
        """Return whether it is time to save: by the clock, by the count, or because an evaluation was the best so far.

        Args:
          step: steps taken.
          evaluated: an evaluation followed the last step.
          metrics: the last value of each.
          waited: seconds that the last dispatch took, without compilation.
        """
        if (options := self.options) is None or self.store is None:
            return False
        self.store.raise_failure()
        now = time.monotonic()
        since = now - self._saved_at
        is_best = evaluated and self._is_best(options, metrics)
        return (
            since >= options.seconds
            or self._is_first_due(now, waited, options.seconds)
            or bool(options.every and step % options.every == 0)
            or (is_best and since >= options.seconds / BEST_SPEEDUP)
        )

    def _is_first_due(self, now: float, waited: float, seconds: float) -> bool:
        """Return whether to write the first checkpoint of this run now, because the next chance would be late."""
        if self._first_step_at is None or self._last_asked_at is None:
            self._first_step_at = self._last_asked_at = now
        interval, self._last_asked_at = max(waited, now - self._last_asked_at), now
        is_late = now - self._first_step_at + interval >= min(FIRST_SECONDS, seconds)
        return not self._has_saved and math.isfinite(seconds) and is_late

    def _is_best(self, options: Checkpoints, metrics: Mapping[str, float]) -> bool:
        name, mode = options.best
        value = metrics.get(name, np.nan)
        sign = 1 if mode == "max" else -1
        is_best = np.isfinite(value) and (self._best is None or sign * value > sign * self._best)
        if is_best:
            self._best = value
        return bool(is_best)

    def save(
        self, program: Program, carry: Carry, history: History, about: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Save a descent; its arrays may be donated as soon as this returns.

        Args:
          program: of the descent.
          carry: its state.
          history: so far.
          about: `seconds`, `compiling`, and the position `stream` of this process in its iterable.
          metrics: the last value of each.
        """
        step = int(carry.state.count)
        if self.store is None or step == self.saved_step:
            return
        stop = {f"stop/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(carry.stop))}
        past = {f"history/{name}": x for name, x in history.arrays().items()}
        arrays = descent_arrays(carry.state, carry.order_key) | stop | past
        positions = {"stream": self._peers.gather_json(about["stream"])}
        self.store.save(step, Saved(arrays, {**about, **positions, **program_record(program, carry.state)}), metrics)
        self.saved_step, self._saved_at, self._has_saved = step, time.monotonic(), True


def descent_arrays(state: State, order_key: jax.Array) -> dict[str, Any]:
    """Return the arrays of a descent in one flat dict, as a checkpoint stores them."""
    trees = {"params": state.params, "opt_state": state.opt_state, "extra": state.extra}
    arrays = {f"{name}/{key}": x for name, tree in trees.items() for key, x in state_arrays(tree).items()}
    return arrays | {"count": state.count, "key": raw(state.key), "order_key": raw(order_key)}


def program_record(program: Program, state: State) -> dict[str, str]:
    """Return the printed forms of a program's parts, which a resumed descent is compared with."""
    return {
        "optimizer": text(program.tx),
        "stop": repr(program.stop),
        "data": _batching_record(program.batching),
        "key": str(jax.random.key_impl(state.key)) if is_key(state.key) else "raw",
    }


def _batching_record(batching: Batching | None) -> str:
    """Print a batching; the name Plan stays, since existing checkpoints hold it."""
    return repr(batching).replace("Batching(", "Plan(")
