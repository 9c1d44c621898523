"""A descent as it runs: dispatch steps, record them, evaluate, save."""

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from gdjax.descent.history import History
from gdjax.descent.loop.evaluation import Evaluate
from gdjax.descent.loop.feeding import ArrayFeed, Dispatch, IterableFeed
from gdjax.descent.loop.nonfinite import explain_nonfinite, first_nonfinite
from gdjax.descent.loop.program import CAPACITY, RESERVED, Carry, Program, compiled, require_free_names
from gdjax.descent.loop.progress import Pace, Progress
from gdjax.descent.loop.resuming import Start
from gdjax.descent.loop.saving import Saver
from gdjax.descent.peers import Peers
from gdjax.descent.result import Fit
from gdjax.descent.stopping import Ending, Stopped
from gdjax.value.diagnose import MAX_COUNT
from gdjax.value.printing import nearest
from gdjax.wrappers.eval_params import eval_params


class Limits(NamedTuple):
    """The length of a descent; `None` is no limit."""

    epochs: int | None
    steps: int | None


class Run:
    """A descent as it runs. The constructor only stores its arguments; call `start` once, then `advance`.

    Args:
      program: of the descent.
      start: where it begins.
      feed: its data.
      limits: its length.
      evaluate: the evaluation, if any.
      saver: the open folder of checkpoints.
      peers: the processes of the descent.
    """

    step: int
    """Steps taken."""
    history: History
    compiling: float
    """Seconds until programs were compiled, those before a resumption included."""
    _carry: Carry
    _began: float

    def __init__(
        self,
        program: Program,
        start: Start,
        feed: ArrayFeed | IterableFeed,
        limits: Limits,
        evaluate: Evaluate | None,
        saver: Saver,
        peers: Peers,
    ):
        self._program, self._start, self._feed, self._limits = program, start, feed, limits
        self._evaluate, self.saver, self.peers = evaluate, saver, peers
        self._compiled = compiled(program)
        self._evaluation_interval = evaluate and evaluate.interval(program.batching)
        self.metrics: dict[str, float] = {}
        """The last value of each metric."""
        self.pace = Pace(CAPACITY)
        self.waited = 0.0
        """Seconds that the last dispatch took on the device, without compilation."""

    def start(self) -> None:
        """Read the first batch, place the state, evaluate before the first step, and check the names of metrics."""
        entered = time.monotonic()
        program, start = self._program, self._start
        self._began = entered - start.seconds
        sample = self._feed.sample()
        # jit caches shapes from descent to descent; an exhausted iterator has no batch to show them
        reports = {} if self._feed.is_exhausted else self._compiled.reports.eval_shape(start.state, start.stop, sample)
        self._carry = program.placement.place(program.initial_carry(start.state, start.order_key, start.stop, reports))
        self.step, self.history = int(start.state.count), start.history
        if not self.history.rows:
            columns = {"step": np.arange(0), **self._carry.records}
            self.history.add({name: column[:0] for name, column in columns.items()})
        if not self.history.evaluations.rows:
            self.evaluate()
        self.peers.call_on_all(self._require_known_metrics)
        self.compiling = start.compiling + time.monotonic() - entered

    @property
    def seconds(self) -> float:
        """Time since the beginning, before a resumption too."""
        return time.monotonic() - self._began

    def advance(self) -> bool:
        """Take one dispatch of steps and record them; return whether an evaluation followed."""
        began = time.monotonic()
        self._carry, dispatch = self._feed.advance(self._carry, self.step, self._most_steps())
        dispatched = time.monotonic()
        taken = int(self._carry.written)  # waits for the device
        ended = time.monotonic()
        self.waited = ended - dispatched
        if not taken:
            return False
        rate = self.pace.measure(dispatch.program, taken, ended - began)
        if math.isnan(rate):
            self.compiling += ended - began
        self._record(taken, rate, dispatch)
        if "seconds" in self._program.stop.watched:
            self._observe({"seconds": self.peers.gather(self.seconds)[0][0]})
        interval = self._evaluation_interval
        is_due = dispatch.ends_epoch if interval is None else self.step % interval == 0
        return is_due and self.evaluate()

    def _record(self, taken: int, rate: float, dispatch: Dispatch) -> None:
        """Add the reports of a dispatch to the history."""
        # copied: the buffers belong to the device, and the next dispatch donates them
        rows = {name: np.array(x[:taken]) for name, x in jax.device_get(self._carry.records).items()}
        rows["throughput"] = np.full(taken, rate * dispatch.examples, np.float32)
        self.history.add({"step": np.arange(self.step, self.step + taken), **rows})
        self.step += taken
        self.metrics |= {name: float(x[-1]) for name, x in rows.items()}

    def evaluate(self) -> bool:
        """Evaluate, unless there is nothing to evaluate or it was done after this step; return whether it was done."""
        past = self.history.evaluations
        if self._evaluate is None or (past.rows and past["step"][-1] == self.step):
            return False
        evaluate = self._evaluate
        values = self.peers.from_first(lambda: self._evaluated(evaluate))
        past.add({"step": [self.step], **{name: [value] for name, value in values.items()}})
        self.metrics |= values
        self._observe(values)
        return True

    def _evaluated(self, evaluate: Evaluate) -> dict[str, float]:
        values = evaluate(self._program.tx, self._carry.state)
        require_free_names("what is evaluated", values, {*RESERVED, *self._carry.records})
        return values

    def ending(self) -> Ending | None:
        """Return the reason to end, if there is one."""
        step, limits = self.step, self._limits
        epochs = self._feed.epochs_done(step)
        if self._carry.ended and (ending := self._program.stop.because(jax.device_get(self._carry.stop))):
            return self._explain(ending)
        if limits.epochs and epochs >= limits.epochs:
            return self._ending_by_length(f"epoch {epochs:,} of {limits.epochs:,} is done")
        if limits.steps and step >= limits.steps:
            return self._ending_by_length(f"{step:,} steps taken")
        if step >= MAX_COUNT:
            return self._ending_by_length(f"{step:,} steps taken, the most that an int32 count holds")
        return (Stopped.EXHAUSTED, "the data have no further batch") if self._feed.is_exhausted else None

    def _ending_by_length(self, words: str) -> Ending:
        """Return the ending of a complete descent, unless its very last update was not finite."""
        if first_nonfinite(self._carry.state.params):
            norms = self.history["grad_norm"]
            return Stopped.NONFINITE, explain_nonfinite(self.step, self._carry.state.params, None, norms)
        return Stopped.STEPS, words

    def _explain(self, ending: Ending) -> Ending:
        """Add the origin of a step that is not finite."""
        if ending[0] is not Stopped.NONFINITE:
            return ending
        params, norms = self._carry.state.params, self.history["grad_norm"]
        return ending[0], f"{ending[1]} {explain_nonfinite(self.step - 1, params, self._feed.data, norms)}"

    def progress(self) -> Progress:
        """Return the progress for callbacks."""
        epochs = self._feed.epochs_done(self.step)
        return Progress(
            self._carry.state, self.step, self._limits.steps, epochs, self.metrics, self.history, self.seconds
        )

    def is_save_due(self, evaluated: bool) -> bool:
        """Return whether it is time to save."""
        return self.saver.is_due(self.step, evaluated, self.metrics, self.waited)

    def save(self) -> None:
        """Save the descent, if its count and its parameters are intact."""
        if int(self._carry.state.count) != self.step or first_nonfinite(self._carry.state.params):
            return
        about = {"seconds": self.seconds, "compiling": self.compiling, "stream": self._feed.position}
        past = self.history.evaluations
        outdated = past.keys() if past.rows and past["step"][-1] != self.step else ()
        metrics = {name: value for name, value in self.metrics.items() if name not in outdated}
        self.saver.save(self._program, self._carry, self.history, about, metrics)

    def result(self, ending: Ending) -> Fit:
        """Return the result of the descent."""
        state = self._carry.state
        params = eval_params(self._program.tx, state.opt_state, state.params)
        return Fit(params, state, self.history, *ending, self.seconds, self.compiling)

    def _most_steps(self) -> int:
        """Return the most steps of the next dispatch: up to the next evaluation, checkpoint or end."""
        options = self.saver.options
        left = (self._limits.steps or MAX_COUNT) - self.step
        intervals = (self._evaluation_interval, options and options.every)
        return min([self.pace.steps, left, *(n - self.step % n for n in intervals if n)])

    def _observe(self, metrics: Mapping[str, float]) -> None:
        """Pass those metrics to the criterion that it needs."""
        if watched := {name: np.float32(x) for name, x in metrics.items() if name in self._program.stop.watched}:
            self._carry = self._compiled.observe(self._carry, watched)

    def _require_known_metrics(self) -> None:
        """Raise unless the criterion and the checkpoints name metrics that exist."""
        evaluated = sorted(self.history.evaluations.keys() - {"step"})
        reported = sorted({*self._carry.records, *self.history.keys()} - {"step", "throughput"})
        best = {self.saver.options.best[0]} if self.saver.options else set()
        for who, names in (("stop", self._program.stop.watched - {"step", "seconds"}), ("Checkpoints.best", best)):
            if unknown := sorted(names - {*reported, *evaluated}):
                hint = nearest(unknown[0], [*reported, *evaluated])
                raise ValueError(
                    f"fit: {who} names {unknown[0]!r}{hint}; a step reports {reported}, an evaluation {evaluated}."
                )
