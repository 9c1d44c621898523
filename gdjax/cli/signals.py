"""Exit with the right status on Ctrl-C, SIGTERM or SIGHUP, at any moment of a command.

Python calls a signal handler between two bytecodes of the main thread. While JAX loads or compiles, or processes wait
for each other, that takes seconds or minutes. Exceptions that a handler raises inside a JAX callback are lost.
Therefore a thread reads the signals (`signal.set_wakeup_fd`), and exits the process if there is nothing to save.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
REPEAT_DELAY = 0.5
"""Seconds after which a second Ctrl-C counts: launchers repeat the one that the terminal sent."""
ANSWER_DELAY = 5.0
"""Seconds after which Ctrl-C gets a message, if the current step takes that long."""


class SignalHandler:
    """Decide what a signal does: end the process at once, or let the descent save first."""

    def __init__(self) -> None:
        self.descent_saves = False
        """True while a descent handles signals itself."""
        self.outcome = ""
        """Sentence on the state in which an immediate exit leaves the run; empty before there is a run."""
        self.pending: int | None = None
        """Signal that came while no descent handled signals."""
        self.before_exit: Callable[[], object] = lambda: None
        """Called before the process exits."""

    def record(self, number: int, _: FrameType | None = None) -> None:
        """Record a signal. This is the handler of the main thread."""
        self.pending = number

    def listen(self, pipe: int) -> None:
        """Act on signals in a separate thread, until the write end of the pipe is closed.

        Args:
          pipe: file descriptor from which signal numbers are read.
        """
        first_ctrl_c, answered = None, False
        while True:
            must_answer = self.descent_saves and first_ctrl_c is not None and not answered
            if not select.select([pipe], [], [], ANSWER_DELAY if must_answer else None)[0]:
                _write_message("Ctrl-C: saving after the current step; a second Ctrl-C exits now, without saving.")
                answered = True
                continue
            if not (numbers := os.read(pipe, 64)):
                return
            for number in filter(SIGNALS.__contains__, numbers):
                now = time.monotonic()
                is_ctrl_c = number == signal.SIGINT
                is_repeated = is_ctrl_c and first_ctrl_c is not None and now - first_ctrl_c >= REPEAT_DELAY
                if is_repeated or not self.descent_saves:
                    self.exit(number)
                if is_ctrl_c and first_ctrl_c is None:
                    first_ctrl_c = now

    def exit(self, number: int) -> NoReturn:
        """End the process at once, with the exit status of a signal."""
        name = "interrupted" if number == signal.SIGINT else signal.Signals(number).name
        _write_message(f"{name}; {self.outcome}" if self.outcome else f"{name}.")
        with contextlib.suppress(Exception):
            self.before_exit()
        os._exit(128 + number)


@contextlib.contextmanager
def handle_signals() -> Iterator[SignalHandler]:
    """Handle signals within this context. Signals that are ignored stay ignored, as under `nohup`."""
    handler = SignalHandler()
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        yield handler
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    listener = threading.Thread(target=handler.listen, args=(read_end,), name="signals", daemon=True)
    listener.start()
    previous_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    handled = {number: action for number, action in previous.items() if action not in (None, signal.SIG_IGN)}
    for number in handled:
        signal.signal(number, handler.record)
    try:
        yield handler
    finally:
        for number, action in handled.items():
            signal.signal(number, action)
        signal.set_wakeup_fd(previous_fd)
        os.close(write_end)
        listener.join()
        os.close(read_end)


def ignore_signals() -> None:
    """Ignore signals from now on: the run is over, and its exit status is fixed."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _write_message(text: str) -> None:
    """Write a message to the standard error, on a new line if a terminal may show a progress bar."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        newline = "\n" if os.isatty(2) else ""
        os.write(2, f"{newline}gdjax: {text}\n".encode(errors="backslashreplace"))
