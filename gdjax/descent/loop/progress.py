"""What a descent says while it goes on."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gdjax.descent.history import History
from gdjax.descent.step.step import State

QUIET = 10.0
"""Seconds between lines where there is no screen."""


class Progress(NamedTuple):
    """What callbacks get after every dispatch."""

    state: State
    """Of the descent now; its arrays are gone at the next dispatch: copy what is to stay."""
    step: int
    """Steps taken."""
    steps: int | None
    """Steps to take, where that is known."""
    epoch: int
    """Times through the data that are done."""
    metrics: Mapping[str, float]
    """The last of each: what the steps reported and what was evaluated."""
    history: History
    """So far."""
    seconds: float
    """Since the beginning."""


Callback = Callable[[Progress], Any]
"""A function that `fit` calls with the progress after every dispatch."""


class Pace:
    """How many steps a dispatch takes, so that progress is seen about ten times a second."""

    interval = 0.1

    def __init__(self, most: int):
        self.steps, self._most = 1, most
        self._warm: set[Any] = set()

    def measured(self, program: Any, steps: int, seconds: float) -> float:
        """Learn from a dispatch; returns steps a second, NaN of the first of a program, which was compiled."""
        if program not in self._warm:
            self._warm.add(program)
            return float("nan")
        rate = steps / max(seconds, 1e-9)
        # one slow dispatch must not make the next a crawl, nor a short one that an evaluation cut off a leap
        wanted = np.clip(rate * self.interval, self.steps / 2, min(self.steps * 4, self._most))
        self.steps = max(int(wanted), 1)
        return rate


class Shown(NamedTuple):
    """A way to show progress."""

    progress: Callback
    """Called after every dispatch."""
    say: Callable[[str], None]
    """Say something at once."""


@contextlib.contextmanager
def shown(progress: bool) -> Iterator[Shown]:
    """Show progress: a bar on a terminal, a line that changes in a notebook, otherwise a line now and then."""
    if not progress:
        yield Shown(lambda _: None, lambda _: None)
    elif _in_notebook():
        yield Shown(_one_line(), _say)
    elif sys.stderr.isatty() and importlib.util.find_spec("rich"):
        with _bar() as show:
            yield show
    else:
        yield Shown(_lines(), _say)


@contextlib.contextmanager
def _bar() -> Iterator[Shown]:
    from rich import progress
    from rich.console import Console

    class Visible(Console):
        """A console whose cursor stays: no end of the process, however sudden, leaves a terminal without one."""

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
        yield Shown(
            lambda now: bar.update(task, completed=now.step, total=now.steps, description=words(now.metrics)),
            lambda text: bar.console.print(f"gdjax: {text}", markup=False, highlight=False),
        )
    finally:
        with contextlib.suppress(OSError):  # the terminal is gone
            bar.stop()


def _one_line() -> Callback:
    from IPython.display import Pretty, display

    handle = display(Pretty("compiling"), display_id=True)
    assert handle is not None
    return lambda now: handle.update(Pretty(_line(now)))


def _lines() -> Callback:
    last = time.monotonic()

    def say(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= QUIET:
            last = time.monotonic()
            _print(_line(now))

    return say


def _say(text: str) -> None:
    _print(f"gdjax: {text}")


def _print(line: str) -> None:
    """Print a line where progress is shown; a terminal that is gone is no reason to end a descent."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def _line(now: Progress) -> str:
    of = f" of {now.steps:,}" if now.steps else ""
    return f"step {now.step:,}{of}  {words(now.metrics)}"


def words(metrics: Mapping[str, float]) -> str:
    """Metrics in a line, the loss and what was evaluated first."""
    shown = {name: x for name, x in metrics.items() if name not in ("throughput", "step", "learning_rate", "grad_norm")}
    return "  ".join(f"{name} {x:.4g}" for name, x in shown.items())


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
