"""What is decided after every dispatch, by all processes of a descent as one."""

import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gdjax.descent.loop.progress import Callback
from gdjax.descent.loop.signals import REASONS
from gdjax.descent.peers import Peers
from gdjax.descent.stopping import Ending

SENT = (None, *sorted(REASONS, key=lambda number: (number != signal.SIGINT, number)))
"""The signals that end a descent; the last of these that any process heard counts for all."""


class Said(NamedTuple):
    """What a process says, and what counts for all."""

    failed: bool
    """Whether a callback raised."""
    asked: bool
    """Whether one asks for the end."""
    signal: int
    """A place in `SENT`."""
    due: bool
    """Whether it is time to save."""
    steps: int
    """Of the next dispatch."""


def decided(peers: Peers, mine: Said) -> Said:
    """What all say: one reason to end is enough, and the clock is that of the first process."""
    if peers.alone:
        return mine
    said = [Said(*map(int, numbers)) for numbers in peers.numbers(*mine)]  # pyright: ignore[reportArgumentType]
    failed, asked, signals = (max(part) for part in list(zip(*said, strict=True))[:3])
    return Said(bool(failed), bool(asked), signals, bool(said[0].due), said[0].steps)


def answers(callbacks: Sequence[Callback], progress: Callable[[], Any]) -> bool:
    """Whether a callback asks for the end."""
    said = [callback(progress()) for callback in callbacks]
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in said)


def signalled(peers: Peers, number: int | None) -> Ending | None:
    """The end that a signal makes, whichever process heard it; `None` if none did."""
    return of_signal(int(max(peers.numbers(numbered(number)))[0]))


def of_signal(place: int) -> Ending | None:
    """The end that a place in `SENT` stands for."""
    number = SENT[place]
    return None if number is None else (REASONS[number], "Ctrl-C" if number == signal.SIGINT else number.name)


def numbered(number: int | None) -> int:
    """Return the place of a signal in `SENT`."""
    return SENT.index(number)
