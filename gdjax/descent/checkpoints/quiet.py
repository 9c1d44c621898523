"""Call Orbax without the noise that its threads make when a disk fails."""

import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from gdjax.descent.checkpoints.disk import short_cause
from gdjax.descent.errors import OrbaxError

P = ParamSpec("P")
Result = TypeVar("Result")


def call_quietly(folder: Path, call: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Call Orbax on a folder; a failure raises one `OrbaxError` and prints nothing.

    Otherwise each thread of Orbax logs a traceback, and TensorStore calls back into event loops that the failure has
    closed. Asyncio also reports every task whose error nobody read when it is collected, so collect them here.
    """
    with _silenced(folder):
        try:
            return call(*args, **kwargs)
        except MemoryError:
            raise
        except Exception as error:
            failure = OrbaxError(short_cause(error))
            failure.add_note(f"{type(error).__name__}: {str(error)[:500]}")
        time.sleep(0.1)  # the other writes fail meanwhile
        gc.collect()
    raise failure


@contextlib.contextmanager
def _silenced(folder: Path) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return str(folder) not in f"{record.getMessage()} {record.exc_info}"

    for logger in loggers:
        logger.addFilter(is_elsewhere)
    try:
        with _closed_loops.silenced():
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_elsewhere)


class _ClosedLoops:
    """Suppress errors of closed event loops while any thread asks for it, and then restore the previous hook."""

    def __init__(self):
        self._lock, self._threads = threading.Lock(), 0
        self._before: Callable[[Any], Any] = sys.unraisablehook

    @contextlib.contextmanager
    def silenced(self) -> Iterator[None]:
        with self._lock:
            if not self._threads:
                self._before, sys.unraisablehook = sys.unraisablehook, self._hook
            self._threads += 1
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                if not self._threads and sys.unraisablehook == self._hook:
                    sys.unraisablehook = self._before

    def _hook(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._before(unraisable)


_closed_loops = _ClosedLoops()
