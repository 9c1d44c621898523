"""The host's side of a descent: take steps until something ends it, in all processes together."""

import contextlib
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gdjax.descent.loop.progress import Callback
from gdjax.descent.loop.run import Run
from gdjax.descent.loop.signals import CaughtSignal, ending_of_rank, rank
from gdjax.descent.peers import Peers
from gdjax.descent.result import Fit
from gdjax.descent.stopping import Ending, Stopped


class Decision(NamedTuple):
    """Decision after a dispatch: the vote of one process, or the result for all."""

    fails: bool
    """A callback raised."""
    stops: bool
    """A callback asks for the end."""
    signal: int
    """Rank of the caught signal."""
    saves: bool
    """A checkpoint is due."""
    steps: int
    """Steps of the next dispatch."""


def drive(run: Run, callbacks: Sequence[Callback], caught: CaughtSignal) -> Ending:
    """Take steps until something ends the descent, and save it. An error saves it too, if possible, and is raised."""
    try:
        ending = _take_steps(run, callbacks, caught)
    except BaseException:  # of a callback, an evaluation, a second Ctrl-C
        with contextlib.suppress(Exception):
            if run.peers.is_single or run.peers.have_failed:  # else the others are elsewhere
                run.save()
        raise
    if ending[0] is not Stopped.NONFINITE or not run.saver.has_checkpoint:
        run.save()  # else the checkpoint before stays the newest: it may lead further
    late = max(run.peers.gather(rank(caught.number)))[0]  # a signal may come at any time
    return ending_of_rank(int(late)) or ending


def _take_steps(run: Run, callbacks: Sequence[Callback], caught: CaughtSignal) -> Ending:
    while (ending := run.ending()) is None:
        evaluated = run.advance()
        stops, error = run.peers.attempt(lambda: call_back(callbacks, run))
        saves = run.is_save_due(evaluated)
        mine = Decision(error is not None, bool(stops), rank(caught.number), saves, run.pace.steps)
        decision = _decide(run.peers, mine)
        if decision.fails:
            run.peers.raise_if_any(error)
        if (ending := run.ending()) is not None:
            break
        if decision.stops:
            return Stopped.CALLBACK, "a callback returned True"
        if by_signal := ending_of_rank(decision.signal):
            return by_signal
        run.pace.steps = decision.steps
        if decision.saves:
            run.save()
    return ending


def _decide(peers: Peers, mine: Decision) -> Decision:
    """Return the decision of all processes: one reason to end is enough, and the clock is that of the first."""
    if peers.is_single:
        return mine
    fails, stops, signals, saves, steps = zip(*peers.gather(*mine), strict=True)
    return Decision(any(fails), any(stops), int(max(signals)), bool(saves[0]), int(steps[0]))


def call_back(callbacks: Sequence[Callback], run: Run) -> bool:
    """Call all callbacks, and return whether one asks for the end."""
    answers = [callback(run.progress()) for callback in callbacks]
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


def finish(run: Run, ending: Ending, callbacks: Sequence[Callback]) -> Fit:
    """Evaluate once more, and return the result; after a signal that terminates, exit with its status.

    Raises:
      SystemExit: with status 128 plus the number of the signal.
    """
    reason, words = ending
    if reason is Stopped.TERMINATED:
        if run.peers.is_first:
            message = f"gdjax: {words} after step {run.step:,}; saved in {run.saver.folder}, to be resumed"
            with contextlib.suppress(OSError):  # after SIGHUP the terminal is gone
                print(message, file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.Signals[words])
    # after the last save: a resumed history must not contain this evaluation
    if reason is not Stopped.INTERRUPTED and run.evaluate():
        run.peers.call_on_all(lambda: call_back(callbacks, run))
    return run.result(ending)
