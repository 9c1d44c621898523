"""What JAX is told before it starts: where compiled programs are kept, and over how many devices to go."""

import os
import re
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


def axis(text: str) -> tuple[str, int]:
    """Read the axis of a mesh, as in `data=8`: its name, and the number of devices."""
    if "," in text:
        raise InputError(
            f"--mesh must have one axis, got {text!r}: a problem's parameters are whole on every device, and batches "
            "are divided over all of them: give data=N."
        )
    found = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*0*([1-9]\d{0,5})\s*", text)
    if not found:
        raise InputError(f"--mesh must be an axis and a number of devices of 1 at least, as in data=8, got {text!r}.")
    return found[1], int(found[2])


def mesh(text: str | None, processes: int | None) -> Mesh | None:
    """The devices of a mesh: of every process as many, on the processor virtual ones; `None` for one device.

    Args:
      text: as in `data=8`; by default what devices the processes have, and one of a process alone.
      processes: how many there are, where it is known.
    """
    name, number = ("data", None) if text is None else axis(text)
    if processes == 1 and number in (None, 1):
        return None
    if number is not None and processes is not None:
        if number % processes:
            raise InputError(f"--mesh must have as many devices for each of {processes} processes, got {text!r}.")
        jax.config.update("jax_num_cpu_devices", number // processes)
    devices = jax.devices()
    each = (number or len(devices)) // jax.process_count()
    found = [[d for d in devices if d.process_index == i][:each] for i in range(jax.process_count())]
    if not each or min(map(len, found)) < each:
        kind, here = devices[0].platform, len(devices)
        raise InputError(
            f"--mesh must have at most {here} devices, those of the {kind}, got {number}: fewer, or JAX_PLATFORMS=cpu "
            "for virtual ones."
        )
    return Mesh(np.array([d for of in found for d in of]), (name,))
