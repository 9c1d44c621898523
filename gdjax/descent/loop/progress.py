"""Show the progress of a descent, and pass it to callbacks."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gdjax.descent.history import History
from gdjax.descent.step.step import State

LINE_INTERVAL = 10.0
"""Seconds between lines where there is no terminal."""


class Progress(NamedTuple):
    """Progress of a descent, passed to callbacks after every dispatch."""

    state: State
    """The current state. The next dispatch donates its arrays: copy those that you keep."""
    step: int
    """Steps taken."""
    steps: int | None
    """Steps to take, if known."""
    epoch: int
    """Completed passes through the data."""
    metrics: Mapping[str, float]
    """The last value of each metric, from steps and evaluations."""
    history: History
    seconds: float
    """Time since the beginning, before a resumption too."""


Callback = Callable[[Progress], Any]
"""A function that `fit` calls with the progress after every dispatch."""


class Pace:
    """Choose the number of steps per dispatch, so that progress shows about ten times a second.

    It adapts to wall time, and never changes results.

    Args:
      most: largest number of steps.
    """

    interval = 0.1
    """Seconds of a dispatch."""

    def __init__(self, most: int):
        self.steps, self._most = 1, most
        self._compiled: set[Hashable] = set()

    def measure(self, program: Hashable, steps: int, seconds: float) -> float:
        """Adapt to a dispatch, and return its steps per second; NaN for the first of a program, which compiles."""
        if program not in self._compiled:
            self._compiled.add(program)
            return float("nan")
        rate = steps / max(seconds, 1e-9)
        # bounded: one slow dispatch must not slow the next ones too much, nor a short one speed them up
        wanted = np.clip(rate * self.interval, self.steps / 2, min(self.steps * 4, self._most))
        self.steps = max(int(wanted), 1)
        return rate


class Display(NamedTuple):
    """A display of progress."""

    progress: Callback
    """Called after every dispatch."""
    say: Callable[[str], None]
    """Show a message at once."""


@contextlib.contextmanager
def show_progress(progress: bool) -> Iterator[Display]:
    """Show progress: a bar on a terminal, a line that changes in a notebook, otherwise a line every ten seconds."""
    if not progress:
        yield Display(lambda _: None, lambda _: None)
    elif _in_notebook():
        yield Display(_notebook_line(), _say)
    elif sys.stderr.isatty() and importlib.util.find_spec("rich"):
        with _bar() as display:
            yield display
    else:
        yield Display(_lines(), _say)


@contextlib.contextmanager
def _bar() -> Iterator[Display]:
    from rich import progress
    from rich.console import Console

    class Visible(Console):
        """A console that never hides the cursor, so that a killed process leaves the terminal with one."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    columns = (
        progress.MofNCompleteColumn(),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}"),
    )
    bar = progress.Progress(*columns, console=Visible(stderr=True), transient=True)
    bar.start()
    try:
        task = bar.add_task("compiling", total=None)
        yield Display(
            lambda now: bar.update(task, completed=now.step, total=now.steps, description=format_metrics(now.metrics)),
            lambda text: bar.console.print(f"gdjax: {text}", markup=False, highlight=False),
        )
    finally:
        with contextlib.suppress(OSError):  # the terminal is gone
            bar.stop()


def _notebook_line() -> Callback:
    from IPython.display import Pretty, display

    handle = display(Pretty("compiling"), display_id=True)
    assert handle is not None
    return lambda now: handle.update(Pretty(_line(now)))


def _lines() -> Callback:
    last = time.monotonic()

    def say(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL:
            last = time.monotonic()
            _print(_line(now))

    return say


def _say(text: str) -> None:
    """Show a message."""
    _print(f"gdjax: {text}")


def _print(line: str) -> None:
    """Print a line to stderr; a terminal that is gone does not end the descent."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def _line(now: Progress) -> str:
    of = f" of {now.steps:,}" if now.steps else ""
    return f"step {now.step:,}{of}  {format_metrics(now.metrics)}"


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Format metrics in a line: the loss, then evaluations."""
    shown = {name: x for name, x in metrics.items() if name not in ("throughput", "step", "learning_rate", "grad_norm")}
    return "  ".join(f"{name} {x:.4g}" for name, x in shown.items())


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
