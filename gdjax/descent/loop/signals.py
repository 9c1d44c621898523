"""Catch Ctrl-C, SIGTERM and SIGHUP, to act on them between dispatches."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from gdjax.descent.stopping import Ending, Stopped

STOP_REASONS = {signal.SIGINT: Stopped.INTERRUPTED, signal.SIGTERM: Stopped.TERMINATED}
if hasattr(signal, "SIGHUP"):  # not on Windows
    STOP_REASONS[signal.SIGHUP] = Stopped.TERMINATED

_RANKED = (None, *sorted(STOP_REASONS, key=lambda number: (number != signal.SIGINT, number)))
"""The signals by rank; if processes got different ones, the highest rank counts for all."""


class CaughtSignal:
    """The signal that was caught, if any."""

    number: signal.Signals | None = None
    reason: Stopped | None = None


@contextlib.contextmanager
def catch_signals(*signals: signal.Signals) -> Iterator[CaughtSignal]:
    """Record the first of these signals instead of acting on it; a second one does what it always does.

    Only the main thread can catch signals, so in another thread nothing is caught. Ignored signals stay ignored.
    """
    caught = CaughtSignal()
    handlers: dict[signal.Signals, object] = {}

    def restore() -> None:
        while handlers:
            number, handler = handlers.popitem()
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def catch(number: int, frame: FrameType | None) -> None:
        caught.number = signal.Signals(number)
        caught.reason = STOP_REASONS[caught.number]
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                handlers[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


def rank(number: int | None) -> int:
    """Return the rank of a signal, which processes can exchange; 0 for none."""
    return _RANKED.index(number)


def ending_of_rank(rank: int) -> Ending | None:
    """Return the ending that the signal of a rank makes."""
    number = _RANKED[rank]
    return None if number is None else (STOP_REASONS[number], "Ctrl-C" if number == signal.SIGINT else number.name)
