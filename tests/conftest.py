"""Eight devices on one processor, and programs that compile fast, unless `XLA_FLAGS` says otherwise."""

import gc
import importlib.metadata
import os

FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
"""XLA's compiler took three quarters of the time; `tests/compiling.py` says what is compiled as users do."""
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know it, and end the process
    FAST += " --xla_cpu_use_fusion_emitters=false"

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {FAST}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

gc.set_threshold(200_000, 20, 100)  # tracing makes many objects: a twelfth of the time went into looking at them
