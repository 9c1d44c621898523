"""Ctrl-C, SIGTERM and SIGHUP, heard between dispatches."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from gdjax.descent.stopping import Stopped

REASONS = {signal.SIGINT: Stopped.INTERRUPTED, signal.SIGTERM: Stopped.TERMINATED}
if hasattr(signal, "SIGHUP"):  # not on Windows
    REASONS[signal.SIGHUP] = Stopped.TERMINATED


class Heard:
    """The reason to end that a signal gave, if one came."""

    reason: Stopped | None = None
    number: signal.Signals | None = None
    """Of the signal."""


@contextlib.contextmanager
def heard(*signals: signal.Signals) -> Iterator[Heard]:
    """Keep these signals for the loop to ask for; a second one does what it always did.

    Only the main thread hears signals; in another they are left alone, as are those that someone else ignores.
    """
    found = Heard()
    before: dict[signal.Signals, object] = {}

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def hear(number: int, frame: FrameType | None) -> None:
        found.number = signal.Signals(number)
        found.reason = REASONS[found.number]
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                before[number] = signal.signal(number, hear)
    try:
        yield found
    finally:
        restore()
