"""Write and read one checkpoint through Orbax, with a checksum of all its content."""

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
from gdjax.descent.checkpoints.quiet import call_quietly
from gdjax.descent.data.placement import put
from gdjax.descent.errors import CheckpointError
from gdjax.prng import Leaf

FORMAT = 1
"""Version of the format; checkpoints of another version are not read."""

Checksums = list[tuple[list[tuple[int, int]], int]]
"""Shards of an array: their bounds in every dimension, and their checksums."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """Content of one checkpoint."""

    arrays: dict[str, Any]
    """Arrays of any shape and dtype by unique keys; typed PRNG keys as their data."""
    about: dict[str, Any]
    """Everything else, as JSON."""


def copy_to_host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return NumPy arrays that stay the same whatever their owner does next.

    The NumPy view of a `jax.Array` never changes: on an accelerator it is a copy, and on the CPU JAX does not donate a
    buffer that has a view. NumPy's own arrays are copied.
    """
    for x in arrays.values():
        if isinstance(x, jax.Array):
            x.copy_to_host_async()
    return {key: np.asarray(x) if isinstance(x, jax.Array) else np.array(x) for key, x in arrays.items()}


def place_like(x: np.ndarray, like: Leaf | None) -> jax.Array | np.ndarray:
    """Put an array where another of its shape and dtype lies; without such a one it stays in NumPy."""
    if like is None or (like.shape, like.dtype) != (x.shape, x.dtype):
        return x
    committed = getattr(like, "committed", True)  # an uncommitted array must not tie others to its device
    sharding = getattr(like, "sharding", None) if committed else None
    return jax.device_put(x) if sharding is None else put(x, sharding)


@dataclasses.dataclass
class KeepBest:
    """Preservation policy of Orbax: keep the n best finite scores, the newest of equal ones."""

    n: int
    mode: str
    scores: dict[int, float] = dataclasses.field(default_factory=dict)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """Return for each checkpoint whether it stays."""
        sign = 1 if self.mode == "min" else -1
        steps = [c.step for c in checkpoints if math.isfinite(self.scores.get(c.step, math.nan))]
        best = sorted(steps, key=lambda step: (sign * self.scores[step], -step))[: self.n]
        return [c.step in best for c in checkpoints]


def make_manager(folder: Path, keep_last: int, best: KeepBest, processes: Sequence[int]) -> Any:
    """Return Orbax's manager of a folder. It writes under a temporary name, renames, then deletes old checkpoints.

    Args:
      folder: an absolute path.
      keep_last: number of newest checkpoints that are kept.
      best: which others are kept.
      processes: those that call the manager together, out of all that JAX has joined. The first renames and deletes.
    """
    ocp = _orbax()
    policies = ocp.checkpoint_managers
    is_joined = jax.process_count() > 1  # or Orbax waits for all of them
    some = {
        "active_processes": {*processes}, "primary_host": processes[0],
        "barrier_sync_key_prefix": f"processes_{'_'.join(map(str, processes))}",
    }  # fmt: skip
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_last), best]),
        enable_async_checkpointing=False,  # its threads wait forever for a folder that cannot be made
        lightweight_initialize=True,
        create=not is_joined,
        step_name_format=_StepNames(),
        multiprocessing_options=ocp.options.MultiprocessingOptions(**some if is_joined else {}),
    )
    return ocp.CheckpointManager(folder, options=options)


class _StepNames:
    r"""Orbax's names of checkpoints, without those that gdjax never writes: `²`, `007` or `5\n`."""

    def build_name(self, step: int) -> str:
        """Return the name of the checkpoint of a step."""
        return str(step)

    def find_all(self, base_path: Any) -> Iterator[Any]:
        """Yield every checkpoint in a folder, in any order."""
        return (entry for entry in self._standard().find_all(base_path) if step_of(entry.path.name) is not None)

    def find_step(self, base_path: Any, step: int) -> Any:
        """Return the checkpoint of a step."""
        return self._standard().find_step(base_path, step)

    def _standard(self) -> Any:
        return _orbax().path.step.standard_name_format()


def checksums(arrays: Mapping[str, Any], is_first: bool = True) -> dict[str, Checksums]:
    """Return the checksums of the data that this process writes: its shards of global arrays, and if first all else."""

    def of(x: Any) -> Checksums:
        if isinstance(x, jax.Array):
            shards = [shard for shard in x.addressable_shards if shard.replica_id == 0]
            return [(_bounds(shard.index, x.shape), checksum(np.asarray(shard.data))) for shard in shards]
        return [(_bounds((slice(None),) * x.ndim, x.shape), checksum(x))] if is_first else []

    return {key: of(x) for key, x in arrays.items()}


def checksum(x: np.ndarray) -> int:
    """Return a number that changes with any one byte."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def write(manager: Any, step: int, saved: Saved, score: float, sums: Mapping[str, Checksums] | None = None) -> None:
    """Write a checkpoint of NumPy arrays; or, together with all processes, one of global arrays and their checksums."""
    ocp = _orbax()
    sums = checksums(saved.arrays) if sums is None else sums
    listed = {key: [str(x.dtype), x.shape, sums[key]] for key, x in saved.arrays.items()}
    text = json.dumps({"format": FORMAT, "about": saved.about, "score": score, "arrays": listed})
    items = ocp.args.Composite(
        arrays=ocp.args.PyTreeSave({key: x for key, x in saved.arrays.items() if x.size}),
        record=ocp.args.JsonSave({"text": text, "checksum": zlib.crc32(text.encode())}),
    )
    call_quietly(manager.directory, manager.save, step, args=items, force=True)


def read(manager: Any, step: int) -> Saved:
    """Read a checkpoint into NumPy arrays, and verify every checksum.

    Raises:
      ValueError: if an array differs from the one that was saved.
    """
    ocp = _orbax()
    record = _read_record(manager, step)
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    args = {key: as_numpy for key, (_, shape, _) in record["arrays"].items() if 0 not in shape}
    items = ocp.args.Composite(arrays=ocp.args.PyTreeRestore(restore_args=args))
    arrays = call_quietly(manager.directory, manager.restore, step, args=items).arrays
    for key, (dtype, shape, sums) in record["arrays"].items():
        if 0 in shape:
            arrays[key] = np.empty(shape, jnp.dtype(dtype))
        x = arrays.get(key)
        if x is None or (str(x.dtype), list(x.shape)) != (dtype, shape) or not _is_intact(x, sums):
            raise ValueError(f"its array {key!r} differs from the saved one")
    return Saved({key: arrays[key] for key in record["arrays"]}, record["about"])


def require_readable(manager: Any, step: int) -> None:
    """List a folder again, and read the record of a checkpoint in it and its smallest array.

    Raises:
      OrbaxError: if Orbax does not find it again.
      ValueError: if the content differs from the written one.
    """
    ocp = _orbax()
    manager.reload()
    if step not in manager.all_steps():
        raise ValueError("it was written and cannot be found again")
    record = _read_record(manager, step)
    sizes = {key: math.prod(shape) for key, (_, shape, _) in record["arrays"].items() if 0 not in shape}
    if not sizes:
        return
    smallest = min(sizes, key=sizes.__getitem__)
    args = {smallest: ocp.RestoreArgs(restore_type=np.ndarray)}
    item = ocp.args.PyTreeRestore(item={smallest: 0}, restore_args=args, partial_restore=True)
    arrays = call_quietly(manager.directory, manager.restore, step, args=ocp.args.Composite(arrays=item)).arrays
    if not _is_intact(arrays[smallest], record["arrays"][smallest][2]):
        raise ValueError(f"its array {smallest!r} differs from the saved one")


def read_score(manager: Any, step: int) -> float:
    """Return the metric with which a checkpoint was saved; NaN where it cannot be read."""
    try:
        return _read_record(manager, step)["score"]
    except Exception:
        return math.nan


def _read_record(manager: Any, step: int) -> dict[str, Any]:
    ocp = _orbax()
    items = ocp.args.Composite(record=ocp.args.JsonRestore())
    stored = call_quietly(manager.directory, manager.restore, step, args=items).record
    text = str(stored.get("text"))
    if zlib.crc32(text.encode()) != stored.get("checksum"):
        raise ValueError("its record differs from the saved one")
    record = json.loads(text)
    if (version := record.get("format")) != FORMAT:
        raise CheckpointError(
            f"The checkpoint of step {step:,} in {str(manager.directory)!r} was written by another version of gdjax, "
            f"which alone can read it: its format is {version}, this one reads {FORMAT}."
        )
    return record


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]


def _is_intact(x: np.ndarray, sums: Checksums) -> bool:
    """Return whether the shards of an array have their checksums, and cover all of it."""
    shards = [x[tuple(slice(*bounds) for bounds in shard)] for shard, _ in sums]
    same = all(checksum(shard) == saved for shard, (_, saved) in zip(shards, sums, strict=True))
    return same and sum(shard.size for shard in shards) == x.size


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("Checkpoints need Orbax, which is not installed: pip install 'gdjax[train]'.") from error
    return orbax.checkpoint
