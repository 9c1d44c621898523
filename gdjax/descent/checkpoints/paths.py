"""Names of checkpoint folders and of the checkpoints in them."""

import os
import re
import tempfile
from pathlib import Path

from gdjax.descent.errors import CheckpointError
from gdjax.value.diagnose import MAX_COUNT

MAX_PATH = 3_000
"""Longest path given to Orbax, in bytes; Orbax appends to it, and the system allows 4,096."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_MISREAD = re.compile(r"[*?\[\]{}\\:\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that Orbax reads as a pattern, or TensorStore as another kind of path or as invalid text."""


def require_local(folder: str | os.PathLike[str]) -> None:
    """Raise for a name that no local folder can have.

    Raises:
      CheckpointError: if it is a URL, as in `gs://bucket/run`, or holds a null character.
    """
    name = os.fspath(folder)
    if _URL.match(name):
        raise CheckpointError(
            f"Checkpoints: folder must be a path of the file system, got {name!r}: mount the bucket and give its path."
        )
    if "\0" in name:
        raise CheckpointError(f"Checkpoints: folder must not hold a null character, got {name!r}.")


def step_of(name: str) -> int | None:
    """Return the step whose checkpoint has this name, or `None`.

    >>> step_of("600"), step_of("600.corrupt"), step_of("0600"), step_of("²")
    (600, None, None, None)
    """
    step = int(name) if re.fullmatch(r"0|[1-9][0-9]{0,9}", name) else None
    return None if step is None or step > MAX_COUNT else step


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint in a folder, in order; none if there is no folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(step for path in paths if (step := step_of(path.name)) is not None and _is_folder(path))


def require_free_name(folder: Path, step: int) -> None:
    """Raise if a file or a link has the name of the checkpoint of a step.

    Raises:
      FileExistsError: if one does.
    """
    path = folder / str(step)
    if os.path.lexists(path) and not _is_folder(path):
        raise FileExistsError(f"{step} is there and no folder")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


class LiteralPath:
    """A path to a folder that Orbax reads literally: the folder's path, or a link to it in a temporary folder.

    Orbax reads `lr[0.1]` as a pattern: it writes there, and finds nothing afterwards. A link in a temporary folder
    leads to the same files, and is removed when the process ends.

    Args:
      folder: an absolute path.
      shared: several processes write there. They must all use one path, so a link is not possible.

    Raises:
      CheckpointError: if no such path exists.
    """

    def __init__(self, folder: Path, shared: bool = False):
        self._folder, self.path = folder, folder
        if _is_literal(folder):
            return
        must = "must have a path without any of *?[]{}\\: and control characters, in UTF-8 and not too long"
        if shared:
            raise CheckpointError(f"Checkpoints: a folder of several processes {must}, got {str(folder)!r}.")
        self._links = tempfile.TemporaryDirectory(prefix="gdjax-", ignore_cleanup_errors=True)
        self.path = Path(self._links.name).absolute() / "checkpoints"
        if not _is_literal(self.path):
            raise CheckpointError(
                f"Checkpoints: folder, or the temporary folder used instead, {must}, got {str(folder)!r} and "
                f"{str(self.path)!r}."
            )
        self.renew()

    def renew(self) -> None:
        """Make the link again if someone has cleaned the temporary folder."""
        if self.path is not self._folder and not self.path.is_symlink():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.symlink_to(self._folder, target_is_directory=True)

    def close(self) -> None:
        """Remove the link."""
        if self.path is not self._folder:
            self._links.cleanup()


def _is_literal(path: Path) -> bool:
    return not _MISREAD.search(str(path)) and len(os.fsencode(path)) <= MAX_PATH
