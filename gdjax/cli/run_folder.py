"""Folder of a run: the paths in it, and a lock that keeps other runs out."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gdjax.cli.errors import InputError

if TYPE_CHECKING:
    from gdjax.descent import Peers

RUNS = Path("runs")
"""Folder of the runs without `--out`."""


class RunFolder(NamedTuple):
    """Paths of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """Path of the settings."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """Path of the metrics of every step and of every evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """Path of the plot of the metrics."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """Path of the folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def resume_command(self) -> str:
        """Return the command that resumes the run."""
        return f"gdjax train --resume --out {self.path}"

    @property
    def last_step(self) -> int:
        """Return the step of the newest checkpoint; 0 if there is none."""
        from gdjax.descent import checkpoint_steps  # loads JAX, which most uses of a folder do not need

        return max(checkpoint_steps(self.checkpoints), default=0)

    @property
    def existing(self) -> list[Path]:
        """Return the paths that exist, links included."""
        return [path for path in (self.config, self.metrics, self.curves, self.checkpoints) if os.path.lexists(path)]

    def require_unlinked(self) -> None:
        """Refuse a folder whose entries are links: they lead to files outside the run.

        Raises:
          InputError: if an entry of the run is a symbolic link.
        """
        for path in self.existing:
            if path.is_symlink():
                raise InputError(
                    f"{str(path)!r} is a symbolic link, and a run reads and writes only files of its folder: remove "
                    "it, or give the folder that it leads to."
                )


@contextlib.contextmanager
def create(out: Path | None, name: str) -> Iterator[RunFolder]:
    """Create and lock the folder of a new run.

    A folder that this call creates is removed if the run fails before it saves anything.

    Args:
      out: the folder; by default the first free `runs/<name>-<n>`.
      name: of the problem.
    """
    from gdjax.descent import lock_folder

    path, is_new = _create_numbered(name) if out is None else _create_given(out)
    folder = RunFolder(path)
    try:
        with lock_folder(path):
            if folder.existing:
                raise InputError(
                    f"{str(path)!r} holds a run already: add --resume to resume it, or give another --out for a new "
                    "run."
                )
            yield folder
    except BaseException:
        if is_new and not (folder.metrics.exists() or folder.last_step):
            shutil.rmtree(path, ignore_errors=True)
        raise


@contextlib.contextmanager
def open_existing(path: Path) -> Iterator[RunFolder]:
    """Lock the folder of a run to resume."""
    from gdjax.descent import lock_folder

    require_run(path)
    with lock_folder(path):
        yield RunFolder(path)


@contextlib.contextmanager
def share(peers: "Peers", opened: contextlib.AbstractContextManager[RunFolder]) -> Iterator[RunFolder]:
    """Open a folder in the first process, and share its path with all others."""
    with contextlib.ExitStack() as stack:
        folder = peers.call_on_all(lambda: stack.enter_context(opened) if peers.is_first else None)
        path = peers.gather_texts(str(folder.path) if folder else "")[0]
        yield RunFolder(Path(path))


def require_run(path: Path) -> None:
    """Refuse a folder that holds no run, or one with links."""
    RunFolder(path).require_unlinked()
    try:
        exists = RunFolder(path).config.is_file()
    except OSError:  # not a valid name of a folder
        exists = False
    if not exists:
        raise InputError(
            f"{str(path)!r} holds no run to resume (no config.toml): leave out --resume to start one there."
        )


def _create_numbered(name: str) -> tuple[Path, bool]:
    for number in itertools.count(1):
        path = RUNS / f"{name}-{number}"
        with contextlib.suppress(FileExistsError):
            _create_directory(RUNS, exist_ok=True)
            _create_directory(path, exist_ok=False)
            return path, True
    raise AssertionError


def _create_given(out: Path) -> tuple[Path, bool]:
    try:
        exists = out.is_dir()
    except OSError:  # not a valid name of a folder: creating it raises the reason
        exists = False
    _create_directory(out, exist_ok=True)
    return out, not exists


def _create_directory(path: Path, *, exist_ok: bool) -> None:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if path.is_dir():
            raise
        raise InputError(f"--out must be a folder, and {str(path)!r} is a file: give another.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"--out {str(path)!r} cannot be created: {reason}; give another.") from error
