"""One checkpoint through Orbax, with a checksum of all that is in it."""

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.descent.faults import quietly


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
    return jax.device_put(x, getattr(like, "sharding", None) if bound else None)


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


def manager(folder: Path, keep_last: int, best: Best) -> Any:
    """Orbax's manager of a folder: it writes under another name and renames what is complete, then deletes the old."""
    ocp = _orbax()
    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_last), best]),
        enable_async_checkpointing=False,  # its threads wait for ever for a folder that cannot be made
        lightweight_initialize=True,
    )
    return ocp.CheckpointManager(folder, options=options)


def write(manager: Any, step: int, saved: Saved, score: float) -> None:
    """Write a checkpoint of NumPy arrays."""
    ocp = _orbax()
    listed = {key: [str(x.dtype), x.shape, _checksum(x)] for key, x in saved.arrays.items()}
    text = json.dumps({"about": saved.about, "score": score, "arrays": listed})
    items = ocp.args.Composite(
        arrays=ocp.args.PyTreeSave({key: x for key, x in saved.arrays.items() if x.size}),
        record=ocp.args.JsonSave({"text": text, "checksum": zlib.crc32(text.encode())}),
    )
    quietly(manager.directory, manager.save, step, args=items, force=True)


def read(manager: Any, step: int) -> Saved:
    """Read a checkpoint in NumPy, and compare all of it with its checksums."""
    ocp = _orbax()
    record = _record(manager, step)
    items = ocp.args.Composite(arrays=ocp.args.PyTreeRestore())
    arrays = quietly(manager.directory, manager.restore, step, args=items).arrays
    for key, (dtype, shape, checksum) in record["arrays"].items():
        if 0 in shape:
            arrays[key] = np.empty(shape, jnp.dtype(dtype))
        x = arrays.get(key)
        if x is None or (str(x.dtype), list(x.shape), _checksum(x)) != (dtype, shape, checksum):
            raise ValueError(f"its array {key!r} is not what was saved")
    return Saved({key: arrays[key] for key in record["arrays"]}, record["about"])


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
    return json.loads(text)


def _checksum(x: np.ndarray) -> int:
    """A number that any one changed byte changes."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("Checkpoints are written by Orbax, which is missing: pip install 'gdjax[train]'.") from error
    return orbax.checkpoint
