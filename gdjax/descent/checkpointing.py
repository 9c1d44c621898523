"""Checkpoints: written whole or not at all while the descent goes on, and checked when they are read."""

import concurrent.futures
import dataclasses
import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from gdjax.descent import whole
from gdjax.descent.faults import CheckpointError as CheckpointError
from gdjax.descent.faults import cause, require_room, require_writable
from gdjax.descent.whole import Saved as Saved


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a descent is saved, how often, and what is kept.

    Args:
      folder: where; it is made if there is none.
      every: steps from one checkpoint to the next, at least 1; by default the clock alone decides.
      seconds: time from one to the next, in (0, inf].
      keep_last: how many of the newest are kept, at least 1.
      keep_best: how many of the best are kept beside them, at least 0.
      best: the metric that decides which is best, the least of it; or `(metric, "max")`. A checkpoint saved without it,
        or at which it is not finite, is none of the best.

    >>> Checkpoints("runs/digits", every=1_000, best=("accuracy", "max")).best
    ('accuracy', 'max')
    """

    folder: str | os.PathLike[str]
    _: dataclasses.KW_ONLY
    every: int | None = None
    seconds: float = 60.0
    keep_last: int = 2
    keep_best: int = 1
    best: Any = "loss"

    def __post_init__(self):
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"Checkpoints: folder must be a path, got {self.folder!r}.")
        for name, least in (("every", 1), ("keep_last", 1), ("keep_best", 0)):
            number = getattr(self, name)
            if isinstance(number, bool) or not (isinstance(number, int) or (name == "every" and number is None)):
                raise TypeError(f"Checkpoints: {name} must be an integer, got {number!r}.")
            if number is not None and number < least:
                raise ValueError(f"Checkpoints: {name} must be at least {least}, got {number}.")
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, (int, float)) or not self.seconds > 0:
            raise ValueError(f"Checkpoints: seconds must lie in (0, inf], got {self.seconds!r}.")
        best = (self.best, "min") if isinstance(self.best, str) else self.best
        if not (type(best) is tuple and len(best) == 2 and isinstance(best[0], str) and best[1] in ("min", "max")):
            raise ValueError(f'Checkpoints: best must be the name of a metric, or (name, "max"), got {self.best!r}.')
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "best", best)


class Store:
    """The checkpoints in a folder, written by Orbax's `CheckpointManager` in a thread of its own.

    One process at a time writes to a folder.

    Args:
      checkpoints: where, and which are kept.

    Raises:
      CheckpointError: if the folder cannot be written to.
      ImportError: if there is no Orbax.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._folder = Path(checkpoints.folder).absolute()
        require_writable(self._folder)
        self._best = whole.Best(checkpoints.keep_best, checkpoints.best[1])
        self._open()
        self._best.scores |= {step: whole.score(self._manager, step) for step in self._manager.all_steps()}
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None

    def latest(self) -> int | None:
        """The step of the newest checkpoint, unread."""
        return max(self._manager.all_steps(), default=None)

    def save(self, step: int, saved: Saved, metrics: Mapping[str, float] | None = None) -> None:
        """Begin to save a step, after the save before has ended; one that is there already stays as it is.

        What is given may be donated or changed as soon as this returns.

        Raises:
          CheckpointError: if the save before this one failed; this one is not begun.
        """
        self.wait()
        if step not in self._manager.all_steps():
            score = float((metrics or {}).get(self._checkpoints.best[0], math.nan))
            kept = Saved(whole.on_host(saved.arrays), json.loads(json.dumps(saved.about)))
            self._writing = self._writer.submit(self._write, step, kept, score)

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
        broken: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                saved = whole.read(self._manager, step)
            except MemoryError:
                raise
            except Exception as error:
                broken[step] = cause(error)
                continue
            self._move_aside(broken, step)
            return step, Saved(
                {key: whole.placed(x, (like or {}).get(key)) for key, x in saved.arrays.items()}, saved.about
            )
        if broken:
            causes = ", ".join(f"step {step} ({why})" for step, why in broken.items())
            raise CheckpointError(
                f"No checkpoint in {str(self._folder)!r} is whole: {causes}. They are left as they are; begin anew in "
                "another folder."
            )
        return None

    def _open(self) -> None:
        """Take the folder as it is, without what saves that were cut short have left."""
        for left in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left, ignore_errors=True)
        self._manager = whole.manager(self._folder, self._checkpoints.keep_last, self._best)

    def _write(self, step: int, saved: Saved, score: float) -> None:
        try:
            require_room(self._folder, sum(x.nbytes for x in saved.arrays.values()))
            self._best.scores[step] = score
            whole.write(self._manager, step, saved, score)
        except Exception as error:
            self._open()
            newest = self.latest()
            raise CheckpointError(
                f"The checkpoint of step {step:,} could not be saved in {str(self._folder)!r}: {cause(error)}; "
                f"{'there is none before it' if newest is None else f'that of step {newest:,} is whole'}. "
                "Make room there or take another folder, then go on from what is saved."
            ) from error

    def _move_aside(self, broken: dict[int, str], instead: int) -> None:
        for step in broken:
            aside = self._folder / f"{step}.corrupt"
            shutil.rmtree(aside, ignore_errors=True)  # what broke there before
            (self._folder / str(step)).rename(aside)
        if broken:
            self._open()
        for step, why in broken.items():
            warnings.warn(
                f"The checkpoint of step {step:,} in {str(self._folder)!r} is broken ({why}): that of step "
                f"{instead:,} is used, and the broken one is now {step}.corrupt.",
                stacklevel=3,
            )
