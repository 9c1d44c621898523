"""One checkpoint through Orbax, with a checksum of all that is in it."""

import dataclasses
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.descent.checkpoints.paths import step_of
from gdjax.descent.checkpoints.quiet import quietly
from gdjax.descent.data.placement import put
from gdjax.descent.errors import CheckpointError

FORMAT = 1
"""Of what is written: another number is not read."""

Sums = list[tuple[list[tuple[int, int]], int]]
"""Parts of an array, each by where it begins and ends in every dimension, with their checksums."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """What one checkpoint holds."""

    arrays: dict[str, Any]
    """Arrays of any shape and dtype by unique keys; typed PRNG keys as their data."""
    about: dict[str, Any]
    """What JSON can hold."""


def on_host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays in NumPy, safe from what their owner does next.

    What NumPy sees of a `jax.Array` never changes: on an accelerator it is a copy, and on the CPU JAX donates no buffer
    that is looked at. The arrays of NumPy itself are copied.
    """
    for x in arrays.values():
        if isinstance(x, jax.Array):
            x.copy_to_host_async()
    return {key: np.asarray(x) if isinstance(x, jax.Array) else np.array(x) for key, x in arrays.items()}


def placed(x: np.ndarray, like: Any) -> Any:
    """An array placed like another that has its shape and dtype; in NumPy where there is none."""
    if like is None or (like.shape, like.dtype) != (x.shape, x.dtype):
        return x
    bound = getattr(like, "committed", True)  # what is on a device by default alone must not hold others there
    sharding = getattr(like, "sharding", None) if bound else None
    return jax.device_put(x) if sharding is None else put(x, sharding)


@dataclasses.dataclass
class Best:
    """Orbax's policy of which checkpoints stay: those of the best scores; one that is not finite is none of them."""

    n: int
    mode: str
    scores: dict[int, float] = dataclasses.field(default_factory=dict)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each of the checkpoints stays."""
        sign = 1 if self.mode == "min" else -1
        steps = [c.step for c in checkpoints if math.isfinite(self.scores.get(c.step, math.nan))]
        best = sorted(steps, key=lambda step: (sign * self.scores[step], -step))[: self.n]
        return [c.step in best for c in checkpoints]


def manager(folder: Path, keep_last: int, best: Best, processes: Sequence[int]) -> Any:
    """Orbax's manager of a folder: it writes under another name and renames what is complete, then deletes the old.

    These processes call it together, of all those that JAX has joined; the first of them renames and deletes.
    """
    ocp = _orbax()
    policies = ocp.checkpoint_managers
    joined = jax.process_count() > 1  # or Orbax waits for all of them
    of_some = {
        "active_processes": {*processes}, "primary_host": processes[0],
        "barrier_sync_key_prefix": f"processes_{'_'.join(map(str, processes))}",
    }  # fmt: skip
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_last), best]),
        enable_async_checkpointing=False,  # its threads wait for ever for a folder that cannot be made
        lightweight_initialize=True,
        create=not joined,
        step_name_format=_Names(),
        multiprocessing_options=ocp.options.MultiprocessingOptions(**of_some if joined else {}),
    )
    return ocp.CheckpointManager(folder, options=options)


class _Names:
    r"""Orbax's names of checkpoints, without those that gdjax never writes: `²`, `007` or `5\n`."""

    def build_name(self, step: int) -> str:
        """Return the name of the checkpoint of a step."""
        return str(step)

    def find_all(self, base_path: Any) -> Iterator[Any]:
        """Yield every checkpoint in a folder, in any order."""
        return (found for found in self._standard().find_all(base_path) if step_of(found.path.name) is not None)

    def find_step(self, base_path: Any, step: int) -> Any:
        """Return the checkpoint of a step."""
        return self._standard().find_step(base_path, step)

    def _standard(self) -> Any:
        return _orbax().path.step.standard_name_format()


def sums(arrays: Mapping[str, Any], first: bool = True) -> dict[str, Sums]:
    """The checksums of what this process writes of arrays: of global ones its parts, all others are the first's."""

    def of(x: Any) -> Sums:
        if isinstance(x, jax.Array):
            parts = [shard for shard in x.addressable_shards if shard.replica_id == 0]
            return [(_bounds(part.index, x.shape), checksum(np.asarray(part.data))) for part in parts]
        return [(_bounds((slice(None),) * x.ndim, x.shape), checksum(x))] if first else []

    return {key: of(x) for key, x in arrays.items()}


def checksum(x: np.ndarray) -> int:
    """A number that any one changed byte changes."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def write(manager: Any, step: int, saved: Saved, score: float, checked: Mapping[str, Sums] | None = None) -> None:
    """Write a checkpoint of NumPy arrays, or with all processes together one of global arrays and their checksums."""
    ocp = _orbax()
    checked = sums(saved.arrays) if checked is None else checked
    listed = {key: [str(x.dtype), x.shape, checked[key]] for key, x in saved.arrays.items()}
    text = json.dumps({"format": FORMAT, "about": saved.about, "score": score, "arrays": listed})
    items = ocp.args.Composite(
        arrays=ocp.args.PyTreeSave({key: x for key, x in saved.arrays.items() if x.size}),
        record=ocp.args.JsonSave({"text": text, "checksum": zlib.crc32(text.encode())}),
    )
    quietly(manager.directory, manager.save, step, args=items, force=True)


def read(manager: Any, step: int) -> Saved:
    """Read a checkpoint in NumPy, and compare all of it with its checksums."""
    ocp = _orbax()
    record = _record(manager, step)
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    args = {key: as_numpy for key, (_, shape, _) in record["arrays"].items() if 0 not in shape}
    items = ocp.args.Composite(arrays=ocp.args.PyTreeRestore(restore_args=args))
    arrays = quietly(manager.directory, manager.restore, step, args=items).arrays
    for key, (dtype, shape, checked) in record["arrays"].items():
        if 0 in shape:
            arrays[key] = np.empty(shape, jnp.dtype(dtype))
        x = arrays.get(key)
        if x is None or (str(x.dtype), list(x.shape)) != (dtype, shape) or not _is_whole(x, checked):
            raise ValueError(f"its array {key!r} is not what was saved")
    return Saved({key: arrays[key] for key in record["arrays"]}, record["about"])


def require_readable(manager: Any, step: int) -> None:
    """List a folder again, and read the record of a checkpoint in it and its smallest array.

    Raises:
      OrbaxError: if Orbax does not find it again.
      ValueError: if it is not what was written.
    """
    ocp = _orbax()
    manager.reload()
    if step not in manager.all_steps():
        raise ValueError("it was written and is not found again")
    record = _record(manager, step)
    sizes = {key: math.prod(shape) for key, (_, shape, _) in record["arrays"].items() if 0 not in shape}
    if not sizes:
        return
    least = min(sizes, key=sizes.__getitem__)
    args = {least: ocp.RestoreArgs(restore_type=np.ndarray)}
    of_one = ocp.args.PyTreeRestore(item={least: 0}, restore_args=args, partial_restore=True)
    arrays = quietly(manager.directory, manager.restore, step, args=ocp.args.Composite(arrays=of_one)).arrays
    if not _is_whole(arrays[least], record["arrays"][least][2]):
        raise ValueError(f"its array {least!r} is not what was saved")


def score(manager: Any, step: int) -> float:
    """The metric that a checkpoint was saved with; NaN where it cannot be read."""
    try:
        return _record(manager, step)["score"]
    except Exception:
        return math.nan


def _record(manager: Any, step: int) -> dict[str, Any]:
    ocp = _orbax()
    items = ocp.args.Composite(record=ocp.args.JsonRestore())
    record = quietly(manager.directory, manager.restore, step, args=items).record
    text = str(record.get("text"))
    if zlib.crc32(text.encode()) != record.get("checksum"):
        raise ValueError("its record is not what was saved")
    found = json.loads(text)
    if (form := found.get("format")) != FORMAT:
        raise CheckpointError(
            f"The checkpoint of step {step:,} in {str(manager.directory)!r} was written by another version of gdjax, "
            f"and is read by that alone: its format is {form}, this one reads {FORMAT}."
        )
    return found


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]


def _is_whole(x: np.ndarray, checked: Sums) -> bool:
    """Whether the parts of an array are what was saved, and are all of it."""
    parts = [x[tuple(slice(*bounds) for bounds in part)] for part, _ in checked]
    alike = all(checksum(part) == of_then for part, (_, of_then) in zip(parts, checked, strict=True))
    return alike and sum(part.size for part in parts) == x.size


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("Checkpoints are written by Orbax, which is missing: pip install 'gdjax[train]'.") from error
    return orbax.checkpoint
