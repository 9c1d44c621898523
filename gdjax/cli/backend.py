"""What JAX is told before it starts: where compiled programs are kept, and over how many devices to go."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gdjax.cli.status import InputError

BROKEN = "Error reading persistent compilation cache entry"


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder, so that the next run starts at once.

    A folder that JAX was given already stays. One that cannot be written to is done without.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdjax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.showwarning = _clearing(folder, warnings.showwarning)


def _clearing(folder: Path, show: Callable[..., Any]) -> Callable[..., Any]:
    """Empty the cache where a program in it cannot be read: a run was killed while it wrote it, and no other will."""

    def shown(message: Any, *where: Any, **kwargs: Any) -> None:
        if not str(message).startswith(BROKEN):
            return show(message, *where, **kwargs)
        for file in folder.glob("*-cache"):
            file.unlink(missing_ok=True)
        return None

    return shown


def mesh(number: int) -> Mesh | None:
    """A number of devices of the default backend, on the processor as many virtual ones; `None` for one."""
    if number == 1:
        return None
    jax.config.update("jax_num_cpu_devices", number)
    devices = jax.devices()
    if len(devices) < number:
        kind = devices[0].platform
        raise InputError(
            f"--devices must be at most {len(devices)}, those of the {kind}, got {number}: fewer, or JAX_PLATFORMS=cpu "
            "for virtual ones."
        )
    return Mesh(np.array(devices[:number]), ("batch",))
