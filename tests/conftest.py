"""Eight devices on one processor, and programs that compile fast, unless `XLA_FLAGS` says otherwise."""

import ctypes
import gc
import importlib.metadata
import os
import pathlib

FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
"""XLA's compiler took three quarters of the time, and a fifth of that went into splitting small programs for threads.

`tests/compiling.py` says what is compiled as users do.
"""
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know it, and end the process
    FAST += " --xla_cpu_use_fusion_emitters=false"

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {FAST}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

gc.set_threshold(200_000, 20, 100)  # tracing makes many objects: a twelfth of the time went into looking at them


RESIDENT = 1_500_000_000
"""Bytes of memory above which a worker forgets its compiled programs: they took up to 4 GB."""
_limit = RESIDENT


def pytest_runtest_teardown():
    """Bound the memory of a worker, on Linux: the allocator keeps freed pages until it is trimmed."""
    global _limit
    if _resident() > _limit:
        import jax  # not before the flags are set

        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        _limit = max(RESIDENT, 1.5 * _resident())  # what cannot be freed is not looked for after every test


def _resident():
    pages = pathlib.Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if pages.exists() else 0
