"""How a command ends: with a status, and with a sentence where it is not a good one."""

import contextlib
import enum
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

import jax
import typer

from gdjax.descent.agreement import PeerFailedError
from gdjax.descent.faults import CheckpointError
from gdjax.descent.lock import FolderInUseError
from gdjax.value import ParseError


class Status(enum.IntEnum):
    """What a process returns."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    MISSED = 3
    INTERRUPTED = 130
    TERMINATED = 143


class InputError(Exception):
    """What was asked for cannot be: a sentence, and the way out."""


WRONG = (InputError, ParseError, FolderInUseError)
"""What is wrong before anything is done."""


def say(sentence: str) -> None:
    """Say something that is no result."""
    print(f"gdjax: {sentence}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def in_a_sentence(debug: bool) -> Iterator[None]:
    """End the command in one sentence where something goes wrong; with `debug` its traceback stands before.

    Of several processes that end together one says why: the first of those that found it. What one found that the
    others were not told of ends it at once, without a shutdown that waits for them: so they hear of it.
    """
    warnings.showwarning = lambda message, *_: say(str(message))
    try:
        yield
    except (typer.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        say("interrupted before it could be saved; what was saved earlier stays.")
        _leave(Status.INTERRUPTED)
    except PeerFailedError as error:
        raise typer.Exit(_status(error)) from None
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        say(_sentence(error))
        if (status := _status(error)) is Status.FAILED and not getattr(error, "agreed", False):
            _leave(status)
        raise typer.Exit(status) from None


def _status(error: BaseException) -> Status:
    kind = error.kind if isinstance(error, PeerFailedError) else ""
    wrong = isinstance(error, WRONG) or kind in [of.__name__ for of in WRONG]
    return Status.WRONG if wrong else Status.FAILED


def _leave(status: Status) -> NoReturn:
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(status)
    raise typer.Exit(status) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, (InputError, ParseError, CheckpointError, ImportError)):
        return str(error).rstrip()
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror.lower()}{where}: make room there, or give another --out."
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}{': ' * bool(first)}{first}; --debug shows where."
