"""End a command with a status, and with a sentence where the status is not 0."""

import contextlib
import enum
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

import typer


class Status(enum.IntEnum):
    """The exit status of a process."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    MISSED = 3
    HUNG_UP = 129
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


class InputError(Exception):
    """A mistake in the request: the message says what it is, and the fix."""


WRONG = {"InputError", "ParseError", "FolderInUseError", "UnsafePathError"}
"""Names of errors found before anything is done; by name, because their modules load JAX."""
IN_WORDS = {*WRONG, "CheckpointError", "ImportError"}
"""Names of errors whose message is a whole sentence."""


def say(sentence: str) -> None:
    """Print a sentence that is not a result; a terminal that is gone is no error."""
    with contextlib.suppress(OSError):
        print(f"gdjax: {printable(sentence)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    r"""Escape control characters, with which an untrusted file could write anywhere on a terminal.

    >>> printable("\x1b[2Jone\ntwo")
    '\\x1b[2Jone\ntwo'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def in_a_sentence(debug: bool) -> Iterator[None]:
    """End the command in one sentence where something goes wrong; with `debug` its traceback stands before.

    Where several processes end together, the first of those that failed says why. Where only this one knows, it ends at
    once: a shutdown would wait for the others, and so they notice that it is gone.
    """
    warnings.showwarning = lambda message, *_: say(str(message))
    try:
        yield
    except typer.Exit:
        raise
    except BrokenPipeError:
        raise typer.Exit(Status.PIPE_CLOSED) from None
    except KeyboardInterrupt:
        say("interrupted before it could be saved; what was saved earlier stays.")
        _leave(Status.INTERRUPTED)
    except Exception as error:
        if _is_told_by_a_peer(error):
            raise typer.Exit(_status(error)) from None
        if debug:
            traceback.print_exception(error)
        say(_sentence(error))
        if (status := _status(error)) is Status.FAILED and not getattr(error, "agreed", False):
            _leave(status)
        raise typer.Exit(status) from None


def _is_told_by_a_peer(error: BaseException) -> bool:
    return "PeerFailedError" in _kinds(error)


def _kinds(error: BaseException) -> set[str]:
    """Return the names of the classes of an error."""
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: BaseException) -> Status:
    kinds = {getattr(error, "kind", "")} if _is_told_by_a_peer(error) else _kinds(error)
    return Status.WRONG if kinds & WRONG else Status.FAILED


def _leave(status: Status) -> NoReturn:
    if (jax := sys.modules.get("jax")) and jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(status)
    raise typer.Exit(status) from None


def _sentence(error: Exception) -> str:
    if _kinds(error) & IN_WORDS:
        return str(error).rstrip()
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror.lower()}{where}: make room there, or give another --out."
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}{': ' * bool(first)}{first}; --debug shows where."
