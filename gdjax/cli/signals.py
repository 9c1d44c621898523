"""Signals from the first moment on: a run that Ctrl-C, SIGTERM or SIGHUP ends always exits with their status.

Python calls a signal handler between two bytecodes of the main thread. While JAX is loaded or compiles, or processes
wait for each other, that takes seconds or minutes; and what a handler raises inside a callback of JAX is lost. So the
system tells a thread (`signal.set_wakeup_fd`), which ends the process itself where there is nothing to save.
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
AGAIN = 0.5
"""Seconds after which a second Ctrl-C counts: launchers repeat the one that the terminal has sent."""
PATIENCE = 5.0
"""Seconds after which Ctrl-C is answered, if the current step takes that long."""


class Watch:
    """Decide what a signal does: it ends the process at once, unless a descent hears it and saves first."""

    def __init__(self) -> None:
        self.saves = False
        """True while a descent handles signals itself."""
        self.outcome = ""
        """The state in which an immediate end leaves the run, in words."""
        self.unheard: int | None = None
        """A signal that came before a descent handled signals, or after it."""
        self.leaving: Callable[[], object] = lambda: None
        """Called before this ends the process."""

    def hear(self, number: int, _: FrameType | None = None) -> None:
        """Note a signal: the handler of the main thread."""
        self.unheard = number

    def listen(self, told: int) -> None:
        """Act on signals as they come, in a separate thread, until the other end of the pipe is closed."""
        since, answered = None, False
        while True:
            waits = self.saves and since is not None and not answered
            if not select.select([told], [], [], PATIENCE if waits else None)[0]:
                _tell("Ctrl-C: saving after the step at hand; Ctrl-C again ends at once, unsaved.")
                answered = True
                continue
            if not (numbers := os.read(told, 64)):
                return
            for number in filter(SIGNALS.__contains__, numbers):
                now = time.monotonic()
                again = number == signal.SIGINT and since is not None and now - since >= AGAIN
                if again or not self.saves:
                    self.end(number)
                if number == signal.SIGINT and since is None:
                    since = now

    def end(self, number: int) -> NoReturn:
        """End the process at once, with the status of a signal."""
        name = "interrupted" if number == signal.SIGINT else signal.Signals(number).name
        _tell(f"{name}{self.outcome and '; '}{self.outcome}.")
        with contextlib.suppress(Exception):
            self.leaving()
        os._exit(128 + number)


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch signals within this context. Signals that are ignored stay ignored, as under `nohup`."""
    watch = Watch()
    if threading.current_thread() is not threading.main_thread():  # only there Python hears signals
        yield watch
        return
    told, teller = os.pipe()
    os.set_blocking(teller, False)
    listener = threading.Thread(target=watch.listen, args=(told,), name="signals", daemon=True)
    listener.start()
    fd_before = signal.set_wakeup_fd(teller, warn_on_full_buffer=False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler not in (None, signal.SIG_IGN):
            signal.signal(number, watch.hear)
    try:
        yield watch
    finally:
        for number, handler in before.items():
            if handler not in (None, signal.SIG_IGN):
                signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        os.close(teller)
        listener.join()
        os.close(told)


def ignored() -> None:
    """Ignore signals from now on: the run is over, and its status stands."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _tell(sentence: str) -> None:
    """Write a sentence to the standard error, on a new line where a terminal may show a progress bar."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        line = "\n" if os.isatty(2) else ""
        os.write(2, f"{line}gdjax: {sentence}\n".encode(errors="backslashreplace"))
