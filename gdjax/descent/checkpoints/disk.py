"""Open and replace the files of a run: only regular files, never through a link.

A folder may be untrusted. A link in it could redirect a write to any of the user's files, a pipe would block, and
opening a device can do harm by itself.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gdjax.descent.errors import CheckpointError, UnsafePathError

FLAGS = {"r": os.O_RDONLY, "w": os.O_WRONLY | os.O_CREAT, "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND}
FLAGS |= {"r+": os.O_RDWR | os.O_CREAT}
GUARDS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags that Windows lacks: do not follow a link, do not wait for the other end of a FIFO."""
KINDS = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"))
KINDS += ((stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def open_descriptor(path: str | os.PathLike[str], mode: str) -> int:
    """Open a regular file and return its descriptor; it is not truncated.

    Args:
      path: the file, which is created unless the mode is `"r"`.
      mode: `"r"`, `"r+"`, `"w"` or `"a"`, as in `open`.

    Raises:
      UnsafePathError: if the path is a link, a folder, a FIFO, a socket or a device. Also if it is opened for writing
        and has several names (hard links): a write would change all of them.
      OSError: if it cannot be opened.
    """
    with contextlib.suppress(FileNotFoundError):  # `os.open` raises it where that is an error
        _require_regular(path, os.lstat(path), mode)
    file = os.open(path, FLAGS[mode] | GUARDS, 0o644)
    try:
        _require_regular(path, os.fstat(file), mode)  # it may have changed since
    except BaseException:
        os.close(file)
        raise
    return file


def open_regular(path: str | os.PathLike[str], mode: str = "r") -> IO[Any]:
    """Open a regular file as UTF-8 text; the errors are those of `open_descriptor`.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "link")
    ...     path.symlink_to("/etc/hostname")
    ...     open_regular(path, "w")
    Traceback (most recent call last):
    ...
    gdjax.descent.errors.UnsafePathError: '...link' must be a regular file, and it is a symbolic link: remove it, or ...
    """
    file = open_descriptor(path, mode)
    if mode == "w":
        os.ftruncate(file, 0)
    return os.fdopen(file, mode, encoding="utf-8")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically; a link of that name is replaced, and its target stays as it is."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:  # "x" follows no link
        file.write(content)
    partial.replace(path)


def require_inside(folder: Path) -> None:
    """Raise for a folder with an entry that leads out of it, or that is neither a file nor a folder.

    Raises:
      UnsafePathError: if there is one.
    """
    root = os.path.realpath(folder)
    for path, status in _entries(folder):
        if stat.S_ISLNK(status.st_mode):
            if not Path(os.path.realpath(path)).is_relative_to(root):
                raise UnsafePathError(f"{path!r} is a symbolic link that leads out of {str(folder)!r}: remove it.")
        elif not stat.S_ISDIR(status.st_mode):
            _require_regular(path, status, "r")


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and the status of everything below a folder, without following links."""
    folders = [str(folder)]
    while folders:
        # another process may remove some
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    folders += [entry.path] if stat.S_ISDIR(status.st_mode) else []
                    yield entry.path, status


def _require_regular(path: str | os.PathLike[str], status: os.stat_result, mode: str) -> None:
    fix = "remove it, or give another folder."
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for is_kind, words in KINDS if is_kind(status.st_mode)), "none")
        raise UnsafePathError(f"{str(path)!r} must be a regular file, and it is {kind}: {fix}")
    if mode != "r" and status.st_nlink > 1:
        raise UnsafePathError(
            f"{str(path)!r} has {status.st_nlink} names (hard links), and writing to it would change all of them: {fix}"
        )


def short_cause(error: BaseException) -> str:
    """Describe an error of a disk or of Orbax in a few words."""
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
    """Make a folder if it is missing; raise unless files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(
            f"Checkpoints: folder must be writable, got {str(folder)!r}: {short_cause(error)}. Give another one."
        ) from None


def require_free_space(folder: Path, size: int) -> None:
    """Raise the error of a full disk unless a number of bytes are free."""
    total, _, free = shutil.disk_usage(folder)
    if total and free < size:  # some file systems report 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
