"""Checkpoints: written whole or not at all while the descent goes on, and checked when they are read."""

import concurrent.futures
import itertools
import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from gdjax.descent.checkpoints import disk as files
from gdjax.descent.checkpoints import orbax as whole
from gdjax.descent.checkpoints.disk import cause, require_room, require_writable
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.orbax import Saved
from gdjax.descent.checkpoints.paths import PlainPath, require_free
from gdjax.descent.errors import CheckpointError, OrbaxError
from gdjax.descent.peers import Peers, is_lost


class Store:
    """The checkpoints in a folder, written by Orbax's `CheckpointManager` in a thread of its own.

    One run at a time writes to a folder. The processes of one run write together: each its parts of the arrays, while
    the descent waits; all of them call the same methods in the same order. Where a write fails in one, it says so at
    once; the others wait for it at a barrier of Orbax, which gives up after five minutes, or until JAX has noticed that
    it is gone and ends them: end it by `os._exit`. The first process holds the folder for all: where it was killed, the
    others may write there for as long as JAX takes to notice; begin again when they are gone.

    Args:
      checkpoints: where, and which are kept.
      peers: the processes of the run.

    Raises:
      CheckpointError: if the folder cannot be written to, or holds a link that leads out of it.
      ImportError: if there is no Orbax.
    """

    def __init__(self, checkpoints: Checkpoints, peers: Peers | None = None):
        self._checkpoints, self._peers = checkpoints, peers or Peers()
        self._folder = Path(checkpoints.folder).absolute()
        require_writable(self._folder)
        files.require_inside(self._folder)
        self._plain = PlainPath(self._folder, shared=not self._peers.alone)
        self._moved: dict[int, str] = {}
        self._best = whole.Best(checkpoints.keep_best, checkpoints.best[1])
        self._open()
        self._best.scores |= {step: whole.score(self._reader, step) for step in self._reader.all_steps()}
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None

    def latest(self) -> int | None:
        """The step of the newest checkpoint, unread."""
        listed = self._listed()  # what one sees of a shared folder may be old
        step = int(self._peers.numbers(-1 if listed is None else listed)[0][0])
        return None if step < 0 else step

    def save(self, step: int, saved: Saved, metrics: Mapping[str, float] | None = None) -> None:
        """Begin to save a step, after the save before has ended; one that is there already stays as it is.

        What is given may be donated or changed as soon as this returns.

        Raises:
          CheckpointError: if the save before this one failed; this one is not begun.
        """
        self.wait()
        there = step in self._manager.all_steps()
        if not self._peers.numbers(there)[0][0]:
            score = float((metrics or {}).get(self._checkpoints.best[0], math.nan))
            about = json.loads(json.dumps(saved.about))
            if self._peers.alone:
                kept = Saved(whole.on_host(saved.arrays), about)
                self._writing = self._writer.submit(self._write, step, kept, score)
            else:
                self._write_together(step, Saved(saved.arrays, about), score)

    def check(self) -> None:
        """Raise what a save has failed with, if one has."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all is saved.

        Raises:
          CheckpointError: if it could not be.
        """
        if self._writing is not None:
            concurrent.futures.wait([self._writing])
            ended, self._writing = self._writing, None
            ended.result()

    def close(self) -> None:
        """Wait until all is saved, and let go of the folder.

        Raises:
          CheckpointError: if it could not be saved.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._manager.close()
            if self._reader is not self._manager:
                self._reader.close()
            self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def newest(self, like: Mapping[str, Any] | None = None) -> tuple[int, Saved] | None:
        """The newest checkpoint that is whole, and its step.

        Each newer one that is not is reported by a warning, and moved aside to `<step>.corrupt`.

        Args:
          like: arrays or `jax.ShapeDtypeStruct`s by key: what has the shape and dtype of one becomes a `jax.Array` with
            its sharding. All else is given in NumPy.

        Raises:
          CheckpointError: if the save before failed, or there are checkpoints and none is whole.
        """
        self.wait()
        if self._reader is not self._manager:
            self._reader.reload()  # what the other has written
        found, broken = self._peers.together(lambda: self._read_newest() if self._peers.first else (None, {}))
        step, moved = map(int, self._peers.numbers(found[0] if found else -1, len(broken))[0])
        if step < 0:
            return None
        if moved:
            self._peers.together(lambda: self._move_aside(broken))
            self._open()
        saved = self._peers.together(lambda: found[1] if found else whole.read(self._reader, step))
        self._peers.together(lambda: self._warn(broken, step))
        like = like or {}
        return step, Saved({key: whole.placed(x, like.get(key)) for key, x in saved.arrays.items()}, saved.about)

    def _read_newest(self) -> tuple[tuple[int, Saved] | None, dict[int, str]]:
        """The newest that is whole, and why the newer ones are not."""
        broken: dict[int, str] = {}
        for step in sorted(self._reader.all_steps(), reverse=True):
            try:
                return (step, whole.read(self._reader, step)), broken
            except (MemoryError, CheckpointError):
                raise
            except Exception as error:
                broken[step] = cause(error)
        if broken:
            causes = ", ".join(f"step {step} ({why})" for step, why in broken.items())
            raise CheckpointError(
                f"No checkpoint in {str(self._folder)!r} is whole: {causes}. They are left as they are; begin anew in "
                "another folder."
            )
        return None, broken

    def _open(self) -> None:
        """Take the folder as it is, without what saves that were cut short have left."""
        if self._peers.first:
            for left in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
        self._plain.renew()
        given = self._plain.path, self._checkpoints.keep_last, self._best
        self._manager = self._reader = whole.manager(*given, self._peers.processes)
        if not self._peers.alone:
            self._reader = whole.manager(*given, [jax.process_index()])

    def _write(self, step: int, saved: Saved, score: float) -> None:
        try:
            require_free(self._folder, step)
            require_room(self._folder, sum(x.nbytes for x in saved.arrays.values()))
            self._best.scores[step] = score
            self._plain.renew()
            whole.write(self._manager, step, saved, score)
            whole.require_readable(self._manager, step)
        except Exception as error:
            self._open()
            raise self._failed(step, error) from error

    def _write_together(self, step: int, saved: Saved, score: float) -> None:
        """Write what every process has its part of."""
        arrays = {key: np.asarray(x) if _is_local(x) else x for key, x in saved.arrays.items()}
        mine = whole.sums(arrays, self._peers.first)
        merged: dict[str, whole.Sums] = {key: [] for key in arrays}
        for text in self._peers.texts(json.dumps(mine)):
            for key, sums in json.loads(text).items():
                merged[key] += sums
        self._best.scores[step] = score
        try:
            size = sum(x.nbytes for x in arrays.values())
            self._peers.together(lambda: require_free(self._folder, step))
            self._peers.together(lambda: require_room(self._folder, size))
            whole.write(self._manager, step, Saved(arrays, saved.about), score, merged)
            self._peers.together(lambda: whole.require_readable(self._reader, step) if self._peers.first else None)
        except (OSError, OrbaxError) as error:
            if is_lost(error):
                raise
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        newest = max({*self._manager.all_steps()} - {step}, default=None)
        return CheckpointError(
            f"The checkpoint of step {step:,} could not be saved in {str(self._folder)!r}: {cause(error)}; "
            f"{'there is none before it' if newest is None else f'that of step {newest:,} is whole'}. "
            "Make room there or take another folder, then go on from what is saved."
        )

    def _listed(self) -> int | None:
        return max(self._manager.all_steps(), default=None)

    def _move_aside(self, broken: dict[int, str]) -> None:
        for step in broken:
            aside = self._aside(step)
            shutil.rmtree(aside, ignore_errors=True)  # what broke there before
            self._moved[step] = aside.name
            try:
                (self._folder / str(step)).rename(aside)
            except OSError as error:
                raise CheckpointError(
                    f"The checkpoint of step {step:,} in {str(self._folder)!r} is broken ({broken[step]}) and cannot "
                    f"be renamed to {aside.name}: {cause(error)}. Move it away."
                ) from error

    def _aside(self, step: int) -> Path:
        """Return the path for a broken checkpoint; a file or a link of that name is someone else's and stays."""
        more = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        paths = (self._folder / f"{step}.corrupt{suffix}" for suffix in more)
        return next(path for path in paths if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()))

    def _warn(self, broken: dict[int, str], instead: int) -> None:
        for step, why in broken.items():
            warnings.warn(
                f"The checkpoint of step {step:,} in {str(self._folder)!r} is broken ({why}): that of step "
                f"{instead:,} is used, and the broken one is now {self._moved.get(step, 'moved aside')}.",
                stacklevel=5,
            )


def _is_local(x: Any) -> bool:
    """Whether an array lies in this process alone."""
    return isinstance(x, jax.Array) and x.is_fully_addressable
