"""Compile as users do, and count compilations."""

import collections
import itertools
import os

import jax

AS_BY_DEFAULT = {"xla_backend_optimization_level": 3}
"""Options that `tests/conftest.py` turns off."""
if "fusion_emitters" in os.environ.get("XLA_FLAGS", ""):
    AS_BY_DEFAULT["xla_cpu_use_fusion_emitters"] = True

_numbers = itertools.count()
_compiled = collections.Counter()


def _count(event, _, fun_name="", **__):
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled[fun_name] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def counted(function, **options):
    """Return the function under `jax.jit`, with a unique name, for `compilations`."""

    def call(*args, **kwargs):
        return function(*args, **kwargs)

    call.__name__ = f"counted_{next(_numbers)}"
    return jax.jit(call, **options)


def compilations(jitted):
    """Return how many programs of a `counted` function were compiled until now.

    The caches of JAX do not tell: entries leave them while many programs are alive.
    """
    return _compiled[f"jit({jitted.__name__})"]


def optimized(lowered):
    """Compile as users do, for tests of the memory or the text of an optimized program."""
    return lowered.compile(compiler_options=AS_BY_DEFAULT)
