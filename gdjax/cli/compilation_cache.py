"""Keep compiled programs on disk for the next run."""

import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import jax

from gdjax.cli.errors import print_message

READ_ERROR = "Error reading persistent compilation cache entry"
"""Start of JAX's warning about a cached program that it cannot read."""


def enable_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that the next run starts without compiling.

    A cache folder that JAX already has stays. JAX runs the programs that it reads, so a folder that others can write to
    is not used. Nor is one that this user cannot write to.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdjax"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return
    if reason := _unsafe_reason(status):
        print_message(f"compiled programs are not kept: {str(folder)!r} {reason}.")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.showwarning = _clear_on_read_error(folder, warnings.showwarning)


def _unsafe_reason(status: os.stat_result) -> str | None:
    """Return the reason not to run programs from a folder; `None` if it is safe."""
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link (set JAX_COMPILATION_CACHE_DIR to use another folder)"
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by others (chmod go-w)"
    return None


def _clear_on_read_error(folder: Path, show: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that empties the cache instead of showing a read error.

    A run that is killed while it writes a program leaves it damaged, and JAX never overwrites it.
    """

    def show_or_clear(message: Warning | str, *args: object, **kwargs: object) -> None:
        if not str(message).startswith(READ_ERROR):
            show(message, *args, **kwargs)
            return
        for file in folder.glob("*-cache"):
            file.unlink(missing_ok=True)

    return show_or_clear
