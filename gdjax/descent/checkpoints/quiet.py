"""Call Orbax without the noise that its threads make when a disk fails."""

import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gdjax.descent.checkpoints.disk import cause
from gdjax.descent.errors import OrbaxError


def quietly(folder: Path, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Have Orbax do something in a folder; of what fails there nothing is heard but this one `OrbaxError`.

    Orbax's threads log it with a traceback each, TensorStore calls back into event loops that the failure has closed,
    and asyncio tells of every task whose error nobody read when it is collected: so it is collected here.
    """
    with _unheard(folder):
        try:
            return call(*arguments, **named)
        except MemoryError:
            raise
        except Exception as error:
            failure = OrbaxError(cause(error))
            failure.add_note(f"{type(error).__name__}: {str(error)[:500]}")
        time.sleep(0.1)  # the other writes fail in their turn
        gc.collect()
    raise failure


@contextlib.contextmanager
def _unheard(folder: Path) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def of_another(record: logging.LogRecord) -> bool:
        return str(folder) not in f"{record.getMessage()} {record.exc_info}"

    for logger in loggers:
        logger.addFilter(of_another)
    try:
        with _closed_loops.unheard():
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(of_another)


class _ClosedLoops:
    """Suppress errors of closed event loops while any thread asks for it, and then restore the previous hook."""

    def __init__(self):
        self._lock, self._threads = threading.Lock(), 0
        self._before: Callable[[Any], Any] = sys.unraisablehook

    @contextlib.contextmanager
    def unheard(self) -> Iterator[None]:
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
