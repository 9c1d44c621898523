"""What disks do to checkpoints, in words."""

import contextlib
import errno
import gc
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class CheckpointError(RuntimeError):
    """A checkpoint could not be saved or read: the message says which, why, what is whole, and the way out."""


def cause(error: BaseException) -> str:
    """Why something failed, in a few words."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
        return os.strerror(int(code[1])).lower()
    if isinstance(error, (KeyError, UnicodeDecodeError, json.JSONDecodeError)):
        return "a file of it is cut short or overwritten"
    if isinstance(error, FileNotFoundError):
        return "a file of it is missing"
    if status := re.match(r"[A-Z]+_[A-Z_]+(?=: )", str(error)):  # TensorStore's too
        return status[0].lower().replace("_", " ")
    first = (str(error).splitlines() or [""])[0].rstrip(". ")
    return (first if len(first) <= 100 else f"{first[:97]}...") or type(error).__name__


def require_writable(folder: Path) -> None:
    """Make a folder where there is none, and refuse one that takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        must = "must be one in which files can be made"
        raise CheckpointError(
            f"Checkpoints: folder {must}, got {str(folder)!r}: {cause(error)}. Give another one."
        ) from None


def require_room(folder: Path, size: int) -> None:
    """Refuse to begin what would fill a disk to the brim."""
    total, _, free = shutil.disk_usage(folder)
    if total and free < size:  # some file systems do not tell
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class OrbaxError(Exception):
    """What Orbax could not do, in a few words."""


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
