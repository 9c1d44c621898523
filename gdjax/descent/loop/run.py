"""A descent as it goes on: dispatch, read, evaluate, save."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.history import History
from gdjax.descent.loop import program as loop
from gdjax.descent.loop.evaluation import Evaluate
from gdjax.descent.loop.feeding import Arrays, Brought
from gdjax.descent.loop.nonfinite import first_nonfinite, origin
from gdjax.descent.loop.progress import Callback, Pace, Progress
from gdjax.descent.loop.resuming import Archive
from gdjax.descent.peers import Peers
from gdjax.descent.result import Fit
from gdjax.descent.step.step import State
from gdjax.descent.stopping import Ending, Stopped
from gdjax.value.diagnose import MAX_COUNT
from gdjax.value.printing import nearest
from gdjax.wrappers.eval_params import eval_params


@dataclasses.dataclass(frozen=True)
class Request:
    """What `fit` was asked for, checked."""

    program: loop.Program
    state: State
    order_key: jax.Array
    data: Any
    peers: Peers
    epochs: int | None
    steps: int | None
    evaluate: Evaluate | None
    checkpoint: Checkpoints | None
    resume: bool | str
    callbacks: Sequence[Callback]


class Course:
    """A descent as it goes on."""

    def __init__(self, request: Request, archive: Archive):
        self._asked, self._archive, self.peers = request, archive, request.peers
        self._program = program = request.program
        self._run = run = loop.compiled(program)
        found = archive.found(request.state, request.order_key)
        about: Mapping[str, Any] = found.about if found else {}
        state, order_key = (found.state, found.order_key) if found else (request.state, request.order_key)
        stop = found.stop if found and found.stop is not None else program.stop.init()
        entered = time.monotonic()
        self._began = entered - about.get("seconds", 0.0)
        self.history = found.history if found else History()
        if program.plan:
            self._feed = Arrays(run, request.data, program.plan, self.peers)
        else:
            options = {"about": about.get("stream"), "epochs": request.epochs, "states": request.checkpoint is not None}
            self._feed = Brought(run, request.data, program.placement, self.peers, **options)
        first = self._feed.sample()
        # jit remembers shapes from descent to descent; an iterator that was used up has none to show
        reports = {} if self._feed.exhausted else run.reports.eval_shape(state, stop, first)
        self._carry = program.placement.placed(program.start(state, order_key, stop, reports))
        self.step = int(state.count)
        self.metrics: dict[str, float] = {}
        self.pace = Pace(loop.CAPACITY)
        self._every = request.evaluate and request.evaluate.steps(program.plan)
        if not self.history.rows:
            self.history.add({name: of[:0] for name, of in {"step": np.arange(0), **self._carry.records}.items()})
        if not self.history.evaluations.rows:
            self.evaluate()
        self.peers.together(self._require_watched)
        self.compiling = about.get("compiling", 0.0) + time.monotonic() - entered
        """Seconds until programs were compiled, those before a resumption included."""
        self.waited = 0.0
        """Seconds that the last dispatch took on the device, without compilation."""

    @property
    def seconds(self) -> float:
        """Since the beginning, before a resumption too."""
        return time.monotonic() - self._began

    def advance(self) -> bool:
        """Take one dispatch of steps and read what they report; tells whether something was evaluated."""
        began = time.monotonic()
        self._carry, dispatch = self._feed.advance(self._carry, self.step, self._most())
        dispatched = time.monotonic()
        taken = int(self._carry.written)  # waits for the device
        ended = time.monotonic()
        self.waited = ended - dispatched
        if not taken:
            return False
        rate = self.pace.measured(dispatch.program, taken, ended - began)
        if math.isnan(rate):
            self.compiling += ended - began
        # copied: the buffers are the device's, and go with the next dispatch
        rows = {name: np.array(x[:taken]) for name, x in jax.device_get(self._carry.records).items()}
        rows["throughput"] = np.full(taken, rate * dispatch.examples, np.float32)
        self.history.add({"step": np.arange(self.step, self.step + taken), **rows})
        self.step += taken
        self.metrics |= {name: float(x[-1]) for name, x in rows.items()}
        if "seconds" in self._program.stop.watched:
            self._tell({"seconds": self.peers.numbers(self.seconds)[0][0]})
        due = dispatch.ends_epoch if self._every is None else self.step % self._every == 0
        return due and self.evaluate()

    def evaluate(self) -> bool:
        """Evaluate, if that is asked for and was not done after this step."""
        seen = self.history.evaluations
        if self._asked.evaluate is None or (seen.rows and seen["step"][-1] == self.step):
            return False
        values = self.peers.together(self._evaluated)
        if not self.peers.alone:
            values = json.loads(self.peers.texts(json.dumps(values))[0])
        seen.add({"step": [self.step], **{name: [value] for name, value in values.items()}})
        self.metrics |= values
        self._tell(values)
        return True

    def ending(self) -> Ending | None:
        """Why it is over, if it is."""
        asked, step = self._asked, self.step
        epoch = self._feed.epoch(step)
        if self._carry.ended and (ending := self._program.stop.because(jax.device_get(self._carry.stop))):
            return self._explained(ending)
        if asked.epochs and epoch >= asked.epochs:
            return self._finite(f"epoch {epoch:,} of {asked.epochs:,} is done")
        if asked.steps and step >= asked.steps:
            return self._finite(f"{step:,} steps taken")
        if step >= MAX_COUNT:
            return self._finite(f"{step:,} steps taken, the most that an int32 count holds")
        return (Stopped.EXHAUSTED, "the data have no further batch") if self._feed.exhausted else None

    def progress(self) -> Progress:
        """What callbacks are told."""
        steps, state, epoch = self._asked.steps, self._carry.state, self._feed.epoch(self.step)
        return Progress(state, self.step, steps, epoch, self.metrics, self.history, self.seconds)

    def save(self) -> None:
        """Save it as it is, if it is whole and finite."""
        if int(self._carry.state.count) != self.step or first_nonfinite(self._carry.state.params):
            return
        about = {"seconds": self.seconds, "compiling": self.compiling, "stream": self._feed.about}
        seen = self.history.evaluations
        of_before = seen.keys() if seen.rows and seen["step"][-1] != self.step else ()
        metrics = {name: value for name, value in self.metrics.items() if name not in of_before}
        self._archive.save(self._carry, self.history, about, metrics)

    def result(self, ending: Ending) -> Fit:
        """What it came to."""
        state = self._carry.state
        params = eval_params(self._program.tx, state.opt_state, state.params)
        return Fit(params, state, self.history, *ending, self.seconds, self.compiling)

    def _evaluated(self) -> dict[str, float]:
        assert self._asked.evaluate is not None
        values = self._asked.evaluate(self._program.tx, self._carry.state)
        loop.require_free("what is evaluated", values, {*loop.RESERVED, *self._carry.records})
        return values

    def _most(self) -> int:
        """Steps to the next that the host must see."""
        asked = self._asked
        every = (self._every, asked.checkpoint and asked.checkpoint.every)
        left = [(asked.steps or MAX_COUNT) - self.step]
        return min([self.pace.steps, *left, *(n - self.step % n for n in every if n)])

    def _finite(self, words: str) -> Ending:
        """The end of a descent, unless its very last update was not finite."""
        if first_nonfinite(self._carry.state.params):
            return Stopped.NONFINITE, origin(self.step, self._carry.state.params, None, self.history["grad_norm"])
        return Stopped.STEPS, words

    def _explained(self, ending: Ending) -> Ending:
        if ending[0] is not Stopped.NONFINITE:
            return ending
        state, norms = self._carry.state, self.history["grad_norm"]
        return ending[0], f"{ending[1]} {origin(self.step - 1, state.params, self._feed.data, norms)}"

    def _tell(self, seen: Mapping[str, float]) -> None:
        """Show the criterion what it watches of this."""
        if watched := {name: np.float32(x) for name, x in seen.items() if name in self._program.stop.watched}:
            self._carry = self._run.told(self._carry, watched)

    def _require_watched(self) -> None:
        evaluated = sorted(self.history.evaluations.keys() - {"step"})
        reported = sorted({*self._carry.records, *self.history.keys()} - {"step", "throughput"})
        of_best = {self._asked.checkpoint.best[0]} if self._asked.checkpoint else set()
        for who, names in (("stop", self._program.stop.watched - {"step", "seconds"}), ("Checkpoints.best", of_best)):
            if unknown := sorted(names - {*reported, *evaluated}):
                hint = nearest(unknown[0], [*reported, *evaluated])
                raise ValueError(
                    f"fit: {who} is of {unknown[0]!r}{hint}; a step reports {reported}, evaluated are {evaluated}."
                )
