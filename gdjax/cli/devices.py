"""What JAX is told before it starts: where compiled programs are kept, and over how many devices to go."""

import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gdjax.cli.arguments import VIRTUAL, axis
from gdjax.cli.errors import InputError, say

BROKEN = "Error reading persistent compilation cache entry"


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder, so that the next run starts at once.

    A folder that JAX was already given stays. A folder that cannot be written to is not used, nor is one that others
    can write to: JAX runs the programs that it reads there.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdjax"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return
    if fault := _fault(status):
        say(f"compiled programs are not kept: {str(folder)!r} {fault}.")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.showwarning = _clearing(folder, warnings.showwarning)


def _fault(status: os.stat_result) -> str | None:
    """Return why programs from a folder are not to be run, in words."""
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link (JAX_COMPILATION_CACHE_DIR names another folder)"
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by others (chmod go-w)"
    return None


def _clearing(folder: Path, show: Callable[..., Any]) -> Callable[..., Any]:
    """Empty the cache where a program in it cannot be read: a run was killed while it wrote it, and no other will."""

    def shown(message: Any, *where: Any, **kwargs: Any) -> None:
        if not str(message).startswith(BROKEN):
            return show(message, *where, **kwargs)
        for file in folder.glob("*-cache"):
            file.unlink(missing_ok=True)
        return None

    return shown


def prepare(text: str | None, processes: int | None) -> None:
    """Have as many virtual devices on the processor as each process needs for a mesh, before JAX starts.

    Args:
      text: as in `data=8`.
      processes: how many there are, where it is known.
    """
    number = text and axis(text)[1]
    if number and processes and (number, processes) != (1, 1) and (each := _each(text, number, processes)) <= VIRTUAL:
        jax.config.update("jax_num_cpu_devices", each)


def mesh(text: str | None) -> Mesh | None:
    """The devices of a mesh: of every process as many; `None` for one device.

    Args:
      text: as in `data=8`; by default what devices the processes have, and one of a process alone.
    """
    name, number = ("data", None) if text is None else axis(text)
    processes = jax.process_count()
    if processes == 1 and number in (None, 1):
        return None
    found = [[device for device in jax.devices() if device.process_index == i] for i in range(processes)]
    most = min(map(len, found))
    each = _each(text, number, processes) if number else most
    if each > most:
        virtual = found[0][0].platform == "cpu"
        most = max(most, VIRTUAL) if virtual else most
        whose = "virtual ones of the processor" if virtual else f"those of the {found[0][0].platform}"
        of_each = "" if processes == 1 else f", {most} of each of {processes} processes"
        way = "give fewer" if virtual else "give fewer, or JAX_PLATFORMS=cpu for virtual ones"
        raise InputError(f"--mesh must have at most {most * processes} devices{of_each}, {whose}, got {number}: {way}.")
    return Mesh(np.array([device for of in found for device in of[:each]]), (name,))


def one_of_each() -> Mesh | None:
    """One device of every process, for what they tell each other before there is a mesh; `None` if there is but one."""
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    return None if len(firsts) == 1 else Mesh(np.array([firsts[process] for process in sorted(firsts)]), ("process",))


def _each(text: str | None, number: int, processes: int) -> int:
    if number % processes:
        name, enough = str(text).partition("=")[0].strip(), -(-number // processes) * processes
        must = f"--mesh must have as many devices for each of {processes} processes"
        raise InputError(f"{must}, got {text!r}: give --mesh {name}={enough}.")
    return number // processes
