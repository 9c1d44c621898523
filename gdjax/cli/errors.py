"""Exit statuses of a command, and errors as one message instead of a traceback."""

import contextlib
import enum
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

import typer


class ExitStatus(enum.IntEnum):
    """Exit status of a command."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    TARGET_MISSED = 3
    HUNG_UP = 129
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


class InputError(Exception):
    """Error in the request. The message names it and gives the fix."""


INPUT_ERRORS = {"InputError", "ParseError", "FolderInUseError", "UnsafePathError"}
"""Names of errors found before the run starts. They are names, because the modules of these classes load JAX."""
READABLE_ERRORS = {*INPUT_ERRORS, "CheckpointError", "ImportError"}
"""Names of errors whose message is printed as it is."""


def print_message(text: str) -> None:
    """Print a message to the standard error; do nothing if the terminal is gone."""
    with contextlib.suppress(OSError):
        print(f"gdjax: {escape_control_characters(text)}", file=sys.stderr, flush=True)


def escape_control_characters(text: str) -> str:
    r"""Escape the control characters with which text from a file could rewrite a terminal.

    >>> escape_control_characters("\x1b[2Jone\ntwo")
    '\\x1b[2Jone\ntwo'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def report_errors(debug: bool) -> Iterator[None]:
    """Turn an error into one message and an exit status.

    If all processes of a run fail together, the first one that failed prints the message. If only this process knows of
    the failure, it exits at once: a shutdown would wait for the others, which then notice that this process is gone.

    Args:
      debug: print the traceback first.
    """
    warnings.showwarning = lambda message, *_: print_message(str(message))
    try:
        yield
    except typer.Exit:
        raise
    except BrokenPipeError:
        raise typer.Exit(ExitStatus.PIPE_CLOSED) from None
    except KeyboardInterrupt:
        print_message("interrupted before the run could be saved; earlier checkpoints are kept.")
        _exit(ExitStatus.INTERRUPTED)
    except Exception as error:
        if _is_reported_by_peer(error):
            raise typer.Exit(_exit_status(error)) from None
        if debug:
            traceback.print_exception(error)
        print_message(_error_message(error))
        if (status := _exit_status(error)) is ExitStatus.FAILED and not getattr(error, "agreed", False):
            _exit(status)
        raise typer.Exit(status) from None


def _is_reported_by_peer(error: BaseException) -> bool:
    return "PeerFailedError" in _class_names(error)


def _class_names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _exit_status(error: BaseException) -> ExitStatus:
    names = {getattr(error, "kind", "")} if _is_reported_by_peer(error) else _class_names(error)
    return ExitStatus.BAD_INPUT if names & INPUT_ERRORS else ExitStatus.FAILED


def _exit(status: ExitStatus) -> NoReturn:
    """Exit; with `os._exit` if JAX is distributed, whose shutdown would wait for the other processes."""
    if (jax := sys.modules.get("jax")) and jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(status)
    raise typer.Exit(status) from None


def _error_message(error: Exception) -> str:
    if _class_names(error) & READABLE_ERRORS:
        return str(error).rstrip()
    if isinstance(error, OSError) and error.strerror:
        path = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror.lower()}{path}: free space there, or give another --out."
    first_line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}{': ' * bool(first_line)}{first_line}; --debug shows the traceback."
