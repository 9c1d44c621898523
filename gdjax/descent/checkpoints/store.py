"""A folder of checkpoints: each is written completely or not at all, and verified when it is read."""

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

from gdjax.descent.checkpoints import disk, orbax
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.orbax import Saved
from gdjax.descent.checkpoints.paths import LiteralPath, require_free_name
from gdjax.descent.errors import CheckpointError, OrbaxError
from gdjax.descent.peers import Peers, is_peer_loss


class Store:
    """The checkpoints in a folder. Orbax's `CheckpointManager` writes them in a thread while the descent goes on.

    One run at a time writes to a folder. Several processes write together, each its shards, while the descent waits;
    all call the same methods in the same order. If a write fails in one process, that one raises at once. The others
    wait at a barrier of Orbax for five minutes, or until JAX notices the loss: end the failed process by `os._exit`.
    The first process holds the lock for all. If it is killed, the others may write until JAX notices; start again
    when they are gone.

    Args:
      checkpoints: the folder, and which checkpoints are kept.
      peers: the processes of the run.

    Raises:
      CheckpointError: if the folder is not writable, or holds a link that leads out of it.
      ImportError: if Orbax is not installed.
    """

    def __init__(self, checkpoints: Checkpoints, peers: Peers | None = None):
        self._checkpoints, self._peers = checkpoints, peers or Peers()
        self._folder = Path(checkpoints.folder).absolute()
        disk.require_writable(self._folder)
        disk.require_inside(self._folder)
        self._path = LiteralPath(self._folder, shared=not self._peers.is_single)
        self._moved: dict[int, str] = {}
        self._best = orbax.KeepBest(checkpoints.keep_best, checkpoints.best[1])
        self._open()
        self._best.scores |= {step: orbax.read_score(self._reader, step) for step in self._reader.all_steps()}
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None

    def latest(self) -> int | None:
        """Return the step of the newest checkpoint, without reading it."""
        listed = max(self._manager.all_steps(), default=None)
        step = int(self._peers.gather(-1 if listed is None else listed)[0][0])  # a shared folder may list old entries
        return None if step < 0 else step

    def save(self, step: int, saved: Saved, metrics: Mapping[str, float] | None = None) -> None:
        """Begin to save a step, after the previous save has ended; an existing checkpoint stays as it is.

        The arrays may be donated or changed as soon as this returns.

        Raises:
          CheckpointError: if the previous save failed; this one is not begun.
        """
        self.wait()
        exists = step in self._manager.all_steps()
        if not self._peers.gather(exists)[0][0]:
            score = float((metrics or {}).get(self._checkpoints.best[0], math.nan))
            about = json.loads(json.dumps(saved.about))
            if self._peers.is_single:
                copied = Saved(orbax.copy_to_host(saved.arrays), about)
                self._writing = self._writer.submit(self._write, step, copied, score)
            else:
                self._write_together(step, Saved(saved.arrays, about), score)

    def raise_failure(self) -> None:
        """Raise the error of the last save if it has failed by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until everything is saved.

        Raises:
          CheckpointError: if the save failed.
        """
        if self._writing is not None:
            concurrent.futures.wait([self._writing])
            ended, self._writing = self._writing, None
            ended.result()

    def close(self) -> None:
        """Wait until everything is saved, and release the folder.

        Raises:
          CheckpointError: if the save failed.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._manager.close()
            if self._reader is not self._manager:
                self._reader.close()
            self._path.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def newest(self, like: Mapping[str, Any] | None = None) -> tuple[int, Saved] | None:
        """Return the newest intact checkpoint with its step; `None` if the folder has none.

        A warning reports each newer, broken one, which is renamed to `<step>.corrupt`.

        Args:
          like: arrays or `jax.ShapeDtypeStruct`s by key. An array with the shape and dtype of one becomes a
            `jax.Array` with its sharding. All others stay in NumPy.

        Raises:
          CheckpointError: if the previous save failed, or all checkpoints are broken.
        """
        self.wait()
        if self._reader is not self._manager:
            self._reader.reload()  # the manager has written since
        found, broken = self._peers.call_on_all(lambda: self._read_newest() if self._peers.is_first else (None, {}))
        step, moved = map(int, self._peers.gather(found[0] if found else -1, len(broken))[0])
        if step < 0:
            return None
        if moved:
            self._peers.call_on_all(lambda: self._move_aside(broken))
            self._open()
        saved = self._peers.call_on_all(lambda: found[1] if found else orbax.read(self._reader, step))
        self._peers.call_on_all(lambda: self._warn(broken, step))
        like = like or {}
        return step, Saved({key: orbax.place_like(x, like.get(key)) for key, x in saved.arrays.items()}, saved.about)

    def _read_newest(self) -> tuple[tuple[int, Saved] | None, dict[int, str]]:
        """Return the newest intact checkpoint, and the faults of newer ones by step."""
        broken: dict[int, str] = {}
        for step in sorted(self._reader.all_steps(), reverse=True):
            try:
                return (step, orbax.read(self._reader, step)), broken
            except (MemoryError, CheckpointError):
                raise
            except Exception as error:
                broken[step] = disk.short_cause(error)
        if broken:
            causes = ", ".join(f"step {step} ({cause})" for step, cause in broken.items())
            raise CheckpointError(
                f"Every checkpoint in {str(self._folder)!r} is broken: {causes}. They are left as they are; start over "
                "in another folder."
            )
        return None, broken

    def _open(self) -> None:
        """Open the folder as it is now, without the remains of interrupted saves."""
        if self._peers.is_first:
            for remains in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(remains, ignore_errors=True)
        self._path.renew()
        arguments = self._path.path, self._checkpoints.keep_last, self._best
        self._manager = self._reader = orbax.make_manager(*arguments, self._peers.processes)
        if not self._peers.is_single:
            self._reader = orbax.make_manager(*arguments, [jax.process_index()])

    def _write(self, step: int, saved: Saved, score: float) -> None:
        try:
            require_free_name(self._folder, step)
            disk.require_free_space(self._folder, sum(x.nbytes for x in saved.arrays.values()))
            self._best.scores[step] = score
            self._path.renew()
            orbax.write(self._manager, step, saved, score)
            orbax.require_readable(self._manager, step)
        except Exception as error:
            self._open()
            raise self._failure(step, error) from error

    def _write_together(self, step: int, saved: Saved, score: float) -> None:
        """Write a checkpoint of which every process holds shards."""
        arrays = {key: np.asarray(x) if _is_local(x) else x for key, x in saved.arrays.items()}
        merged: dict[str, orbax.Checksums] = {key: [] for key in arrays}
        for sums in self._peers.gather_json(orbax.checksums(arrays, self._peers.is_first)):
            for key, shards in sums.items():
                merged[key] += shards
        self._best.scores[step] = score
        size = sum(x.nbytes for x in arrays.values())
        try:
            self._peers.call_on_all(lambda: require_free_name(self._folder, step))
            self._peers.call_on_all(lambda: disk.require_free_space(self._folder, size))
            orbax.write(self._manager, step, Saved(arrays, saved.about), score, merged)
            self._peers.call_on_all(
                lambda: orbax.require_readable(self._reader, step) if self._peers.is_first else None
            )
        except (OSError, OrbaxError) as error:
            if is_peer_loss(error):
                raise
            raise self._failure(step, error) from error

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        newest = max({*self._manager.all_steps()} - {step}, default=None)
        return CheckpointError(
            f"The checkpoint of step {step:,} could not be saved in {str(self._folder)!r}: {disk.short_cause(error)}; "
            f"{'there is none before it' if newest is None else f'that of step {newest:,} is intact'}. "
            "Make room there or take another folder, then resume."
        )

    def _move_aside(self, broken: dict[int, str]) -> None:
        for step in broken:
            aside = self._aside(step)
            shutil.rmtree(aside, ignore_errors=True)  # an earlier broken checkpoint of this step
            self._moved[step] = aside.name
            try:
                (self._folder / str(step)).rename(aside)
            except OSError as error:
                raise CheckpointError(
                    f"The checkpoint of step {step:,} in {str(self._folder)!r} is broken ({broken[step]}) and cannot "
                    f"be renamed to {aside.name}: {disk.short_cause(error)}. Move it away."
                ) from error

    def _aside(self, step: int) -> Path:
        """Return the new path of a broken checkpoint; a file or a link of that name is someone else's and stays."""
        suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        paths = (self._folder / f"{step}.corrupt{suffix}" for suffix in suffixes)
        return next(path for path in paths if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()))

    def _warn(self, broken: dict[int, str], used: int) -> None:
        for step, cause in broken.items():
            warnings.warn(
                f"The checkpoint of step {step:,} in {str(self._folder)!r} is broken ({cause}): that of step "
                f"{used:,} is used, and the broken one is now {self._moved.get(step, 'moved aside')}.",
                stacklevel=5,
            )


def _is_local(x: Any) -> bool:
    """Return whether an array lies in this process alone."""
    return isinstance(x, jax.Array) and x.is_fully_addressable
