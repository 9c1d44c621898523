"""Time peers in turn, and describe the machine."""

import gc
import os
import platform
import statistics
import time

import jax
import optax


def time_in_turn(peers, rounds, warmup=0):
    """Return the seconds of every peer in every round after the warm-up.

    The order is reversed in every second round, because a peer called second is slower by up to 4%. Garbage is
    collected between rounds, because it would slow down the same peer each time.

    Args:
      peers: functions by name.
      rounds: number of timed rounds.
      warmup: number of rounds before them.
    """
    times = {name: [] for name in peers}
    for number in range(warmup + rounds):
        if number % 10 == 0:
            gc.collect()
        gc.disable()
        for name, call in list(peers.items())[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        gc.enable()
    return {name: taken[warmup:] for name, taken in times.items()}


def medians(peers, rounds, warmup=0):
    """Return the median seconds of every peer."""
    return {name: statistics.median(taken) for name, taken in time_in_turn(peers, rounds, warmup).items()}


def machine(**versions):
    """Describe the machine and the libraries in one line.

    Args:
      versions: versions of further libraries, by name.
    """
    device, cores = jax.devices()[0].device_kind, len(os.sched_getaffinity(0))
    libraries = {"Python": platform.python_version(), "JAX": jax.__version__, "Optax": optax.__version__, **versions}
    listed = ", ".join(f"{name} {version}" for name, version in libraries.items())
    return f"{platform.machine()}, {platform.system()}, {cores} cores, {len(jax.devices())} {device} device, {listed}"
