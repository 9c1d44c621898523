"""The folder of a run: which, and that no other run writes to it."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gdjax.cli.errors import InputError

if TYPE_CHECKING:
    from gdjax.descent.peers import Peers

RUNS = Path("runs")


class Run(NamedTuple):
    """What is where."""

    folder: Path

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.folder / "config.toml"

    @property
    def metrics(self) -> Path:
        """What every step reported, and what was evaluated."""
        return self.folder / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The same as a picture."""
        return self.folder / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """What it is resumed from."""
        return self.folder / "checkpoints"

    @property
    def steps(self) -> int:
        """Those that the newest checkpoint has."""
        from gdjax.descent.checkpoints.paths import steps_in  # loads JAX, which a folder does not need at first

        return max(steps_in(self.checkpoints), default=0)

    @property
    def made(self) -> list[Path]:
        """What of these there is."""
        return [path for path in (self.config, self.metrics, self.curves, self.checkpoints) if os.path.lexists(path)]

    def require_unlinked(self) -> None:
        """Refuse a folder whose entries are links: these lead to files that do not belong to this run.

        Raises:
          InputError: if an entry of the run is a link.
        """
        for path in self.made:
            if path.is_symlink():
                raise InputError(
                    f"{str(path)!r} is a symbolic link, and a run reads and writes its own files alone: remove it, or "
                    "give the folder that it leads to."
                )


@contextlib.contextmanager
def new(out: Path | None, name: str) -> Iterator[Run]:
    """Take a folder for a new run, the first free `runs/<name>-<n>` by default.

    A folder made for the run is removed if the run fails before it saves anything.
    """
    from gdjax.descent.checkpoints.lock import alone

    folder, made = _numbered(name) if out is None else _given(out)
    try:
        with alone(folder):
            run = Run(folder)
            if run.made:
                raise InputError(
                    f"{str(folder)!r} holds a run already: --resume goes on with it, another --out begins one."
                )
            yield run
    except BaseException:
        if made and not (Run(folder).metrics.exists() or Run(folder).steps):
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def old(folder: Path) -> Iterator[Run]:
    """Take the folder of a run to go on with."""
    from gdjax.descent.checkpoints.lock import alone

    require_run(folder)
    with alone(folder):
        yield Run(folder)


@contextlib.contextmanager
def shared(peers: "Peers", taken: contextlib.AbstractContextManager[Run]) -> Iterator[Run]:
    """The folder of a run that the first of its processes takes for all."""
    with contextlib.ExitStack() as held:
        run = peers.together(lambda: held.enter_context(taken) if peers.first else None)
        folder = peers.texts(str(run.folder) if run else "")[0]
        yield Run(Path(folder))


def require_run(folder: Path) -> None:
    """Refuse a folder that holds no run, or one with links."""
    Run(folder).require_unlinked()
    try:
        there = Run(folder).config.is_file()
    except OSError:  # not a valid name of a folder
        there = False
    if not there:
        raise InputError(f"{str(folder)!r} holds no run to resume (no config.toml): without --resume one begins there.")


def _numbered(name: str) -> tuple[Path, bool]:
    for number in itertools.count(1):
        folder = RUNS / f"{name}-{number}"
        with contextlib.suppress(FileExistsError):
            _made(RUNS, exist_ok=True)
            _made(folder, exist_ok=False)
            return folder, True
    raise AssertionError


def _given(out: Path) -> tuple[Path, bool]:
    try:
        there = out.is_dir()
    except OSError:  # not a valid name of a folder: making it says why
        there = False
    _made(out, exist_ok=True)
    return out, not there


def _made(folder: Path, *, exist_ok: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if folder.is_dir():
            raise
        raise InputError(f"--out must be a folder, and {str(folder)!r} is a file: give another.") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise InputError(f"--out {str(folder)!r} cannot be made: {why}; give another.") from error
