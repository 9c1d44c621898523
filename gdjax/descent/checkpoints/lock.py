"""One process at a time writes to a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from gdjax.descent.checkpoints import disk as files
from gdjax.descent.errors import FolderInUseError

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None

NAME = ".lock"


@contextlib.contextmanager
def alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder for this run, against other processes and other runs of this one.

    The system lets go of it when the process ends, however it ends. The file stays: without it two could hold two files
    of one name.

    Args:
      folder: one that exists.

    Raises:
      FolderInUseError: if another run holds it.
      UnsafePathError: if its file is a link, or no regular file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, alone(folder):
    ...     print(*os.listdir(folder))
    .lock
    """
    file = files.descriptor(Path(folder) / NAME, "r+")
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told = os.read(file, 20).decode(errors="replace")
                holder = told if told.isdecimal() else "unknown"  # an untrusted file may hold anything
                raise FolderInUseError(
                    f"{str(folder)!r} is in use by another run (process {holder}): wait for it, or give another folder."
                ) from None
            except OSError:
                pass  # some file systems have no locks
        with contextlib.suppress(OSError):  # a full disk: who holds it is for messages alone
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)
