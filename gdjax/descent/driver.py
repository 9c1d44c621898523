"""The host's side of a descent: dispatch, read, evaluate, save, and see whether it is over."""

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gdjax.descent import loop
from gdjax.descent.archive import Archive
from gdjax.descent.batches import Item, Stream
from gdjax.descent.checkpointing import Checkpoints
from gdjax.descent.evaluation import Evaluate
from gdjax.descent.history import History
from gdjax.descent.nonfinite import origin
from gdjax.descent.progress import Callback, Pace, Progress, shown
from gdjax.descent.result import Fit
from gdjax.descent.signals import heard
from gdjax.descent.step import State
from gdjax.descent.stopping import Ending, Stopped
from gdjax.value.printing import nearest
from gdjax.wrappers import eval_params


@dataclasses.dataclass(frozen=True)
class Request:
    """What `fit` was asked for, checked."""

    program: loop.Program
    state: State
    order_key: jax.Array
    data: Any
    put: Callable[[Any], Any]
    epochs: int | None
    steps: int | None
    evaluate: Evaluate | None
    checkpoint: Checkpoints | None
    resume: bool | str
    callbacks: Sequence[Callback]


def descend(request: Request, progress: bool) -> Fit:
    """Descend until something ends it."""
    signals = (signal.SIGINT, signal.SIGTERM) if request.checkpoint else (signal.SIGINT,)
    with (
        Archive(request.checkpoint, request.program, request.resume) as archive,
        heard(*signals) as sent,
        shown(progress) as show,
    ):
        descent = _Descent(request, archive)
        ending = descent.ending()
        while ending is None:
            evaluated = descent.advance()
            asked = [callback(descent.progress()) for callback in (show, *request.callbacks)]
            ending = descent.ending()
            if ending is None and any(answer is True for answer in asked):
                ending = Stopped.CALLBACK, "a callback returned True"
            if ending is None and sent.reason:
                ending = sent.reason, "Ctrl-C" if sent.reason is Stopped.INTERRUPTED else "SIGTERM"
            if ending is None and archive.due(descent.step, evaluated, descent.metrics):
                descent.save()
        descent.save()
    if ending[0] is Stopped.TERMINATED:
        print(f"gdjax: SIGTERM after step {descent.step:,}; saved in {archive.folder}, to be resumed", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)
    if ending[0] is not Stopped.INTERRUPTED and descent.evaluate():  # after it is saved: no resumed history has it
        for callback in request.callbacks:
            callback(descent.progress())
    return descent.result(ending)


class _Descent:
    """A descent as it goes on."""

    def __init__(self, request: Request, archive: Archive):
        self._asked, self._archive = request, archive
        self._program = program = request.program
        found = archive.found(request.state, request.order_key)
        about: Mapping[str, Any] = found.about if found else {}
        state, order_key = (found.state, found.order_key) if found else (request.state, request.order_key)
        stop = found.stop if found and found.stop is not None else program.stop.init()
        self._began = time.monotonic() - about.get("seconds", 0.0)
        self.history = found.history if found else History()
        self._where: dict[str, Any] | None = about.get("stream")
        self._stream = None if program.plan else Stream(request.data, request.put, self._where)
        self._ends_epoch = self._exhausted = False
        self._carry = request.put(program.start(state, order_key, stop, self._first_batch()))
        self.step = int(state.count)
        self.metrics: dict[str, float] = {}
        self._pace = Pace(loop.CAPACITY)
        self._every = request.evaluate and request.evaluate.steps(program.plan)
        if not self.history.evaluations.rows:
            self.evaluate()
        self._require_watched()

    @property
    def seconds(self) -> float:
        """Since the beginning, before a resumption too."""
        return time.monotonic() - self._began

    @property
    def epoch(self) -> int:
        """Times through the data that are done."""
        if self._program.plan:
            return self.step // self._program.plan.per_epoch
        return self._where["epoch"] if self._where else 0

    def advance(self) -> bool:
        """Take one dispatch of steps and read what they report; tells whether something was evaluated."""
        began = time.monotonic()
        examples = self._from_stream() if self._stream else self._from_arrays()
        taken = int(self._carry.written)  # waits for the device
        if not taken:
            return False
        rate = self._pace.measured(taken, time.monotonic() - began)
        # copied: the buffers are the device's, and go with the next dispatch
        rows = {name: np.array(x[:taken]) for name, x in jax.device_get(self._carry.records).items()}
        rows["throughput"] = np.full(taken, rate * examples, np.float32)
        self.history.add({"step": np.arange(self.step, self.step + taken), **rows})
        self.step += taken
        self.metrics |= {name: float(x[-1]) for name, x in rows.items()}
        self._tell({"seconds": self.seconds})
        due = self._ends_epoch if self._every is None else self.step % self._every == 0
        return due and self.evaluate()

    def evaluate(self) -> bool:
        """Evaluate, if that is asked for and was not done after this step."""
        seen = self.history.evaluations
        if self._asked.evaluate is None or (seen.rows and seen["step"][-1] == self.step):
            return False
        values = self._asked.evaluate(self._program.tx, self._carry.state)
        if seen.rows and values.keys() | {"step"} != seen.keys():
            names = sorted(seen.keys() - {"step"})
            raise ValueError(f"fit: evaluate must return the same names every time, {names}, got {sorted(values)}.")
        seen.add({"step": [self.step], **{name: [value] for name, value in values.items()}})
        self.metrics |= values
        self._tell(values)
        return True

    def ending(self) -> Ending | None:
        """Why it is over, if it is."""
        asked = self._asked
        if self._carry.ended:
            reason, words = self._program.stop.because(jax.device_get(self._carry.stop)) or (Stopped.STEPS, "")
            if reason is Stopped.NONFINITE:
                data = None if self._stream else asked.data
                words = f"{words} {origin(self.step - 1, self._carry.state.params, data, self.history['grad_norm'])}"
            return reason, words
        if asked.epochs and self.epoch >= asked.epochs:
            return Stopped.STEPS, f"epoch {self.epoch:,} of {asked.epochs:,} is done"
        if asked.steps and self.step >= asked.steps:
            return Stopped.STEPS, f"{asked.steps:,} steps taken"
        return (Stopped.EXHAUSTED, "the data have no further batch") if self._exhausted else None

    def progress(self) -> Progress:
        """What callbacks are told."""
        steps, state = self._asked.steps, self._carry.state
        return Progress(state, self.step, steps, self.epoch, self.metrics, self.history, self.seconds)

    def save(self) -> None:
        """Save it as it is."""
        about = {"seconds": self.seconds, "stream": self._where}
        seen = self.history.evaluations
        of_before = seen.keys() if seen.rows and seen["step"][-1] != self.step else ()
        metrics = {name: value for name, value in self.metrics.items() if name not in of_before}
        self._archive.save(self._carry, self.history, about, metrics)

    def result(self, ending: Ending) -> Fit:
        """What it came to."""
        state = self._carry.state
        params = eval_params(self._program.tx, state.opt_state, state.params)
        return Fit(params, state, self.history, *ending, self.seconds)

    def _first_batch(self) -> Any:
        """The shapes of a batch."""
        if self._stream:
            return self._stream.peek()
        size = self._program.plan and self._program.plan.batch_size
        return jax.eval_shape(lambda data: jax.tree.map(lambda x: x[:size], data), self._asked.data)

    def _from_arrays(self) -> int:
        """Take steps with arrays, up to the next that the host must see; returns the examples of one."""
        program, plan, asked = self._program, self._program.plan, self._asked
        assert plan is not None
        place = self.step % plan.per_epoch
        if plan.remainder and place == plan.full:
            self._carry = loop.last(program, self._carry, asked.data)
            return plan.remainder
        bounds = [self._pace.steps]
        if plan.remainder:
            bounds.append(plan.full - place)
        if asked.steps:
            bounds.append(asked.steps - self.step)
        bounds += [n - self.step % n for n in (self._every, asked.checkpoint and asked.checkpoint.every) if n]
        self._carry = loop.many(program, self._carry, asked.data, np.int32(min(bounds)))
        return plan.batch_size

    def _from_stream(self) -> int:
        """Take steps with batches as they come, up to the end of an epoch; returns the examples of one."""
        stream, asked = self._stream, self._asked
        assert stream is not None
        bounds = [self._pace.steps, *([asked.steps - self.step] if asked.steps else [])]
        bounds += [n - self.step % n for n in (self._every, asked.checkpoint and asked.checkpoint.every) if n]
        self._carry = self._carry._replace(written=asked.put(np.zeros((), np.int32)))
        items: list[Item] = []
        while len(items) < min(bounds) and not (items and items[-1].ends):
            if (item := stream.next()) is None:
                self._exhausted = True
                break
            self._carry = loop.one(self._program, self._carry, item.batch)
            items.append(item)
        if taken := int(self._carry.written):  # fewer than were brought where the descent ended
            self._where, self._ends_epoch = items[taken - 1].about, items[taken - 1].ends
        leaves = jax.tree.leaves(items[0].batch) if items else []
        return leaves[0].shape[0] if leaves and leaves[0].shape else 1

    def _tell(self, seen: Mapping[str, float]) -> None:
        """Show the criterion what it watches of this."""
        if watched := {name: np.float32(x) for name, x in seen.items() if name in self._program.stop.watched}:
            self._carry = loop.told(self._program, self._carry, watched)

    def _require_watched(self) -> None:
        known = {"step", "seconds", *self._carry.records, *self.history.evaluations}
        if unknown := sorted(self._program.stop.watched - known):
            reported, evaluated = sorted(self._carry.records), sorted(self.history.evaluations.keys() - {"step"})
            raise ValueError(
                f"fit: stop watches {unknown[0]!r}{nearest(unknown[0], known)}; a step reports {reported}, "
                f"evaluated are {evaluated}."
            )
