"""Lock a folder, so that one run at a time writes to it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from gdjax.descent.checkpoints import disk
from gdjax.descent.errors import FolderInUseError

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None

NAME = ".lock"


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a folder against other processes, and against other runs in this one.

    The system releases the lock when the process ends, however it ends. The file stays: if it were removed, two runs
    could hold locks on two files of that name.

    Args:
      folder: an existing folder.

    Raises:
      FolderInUseError: if another run holds the lock.
      UnsafePathError: if the lock file is a link, or not a regular file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, lock_folder(folder):
    ...     print(*os.listdir(folder))
    .lock
    """
    file = disk.open_descriptor(Path(folder) / NAME, "r+")
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                content = os.read(file, 20).decode(errors="replace")
                holder = content if content.isdecimal() else "unknown"  # an untrusted file may hold anything
                raise FolderInUseError(
                    f"{str(folder)!r} is in use by another run (process {holder}): wait for it, or give another folder."
                ) from None
            except OSError:
                pass  # some file systems have no locks
        with contextlib.suppress(OSError):  # a full disk: the process number is for messages alone
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)
