"""What the benchmarks share: peers in turn, and where they ran."""

import gc
import os
import platform
import statistics
import time

import jax
import optax


def in_turn(peers, rounds, unseen=0):
    """The seconds of every peer in every round; the first, unseen rounds are left out.

    All are called in turn, in every second round the other way about: a peer called second is slower by up to 4%.
    Garbage is collected between rounds, as it would fall to one peer again and again.
    """
    times = {name: [] for name in peers}
    for number in range(unseen + rounds):
        if number % 10 == 0:
            gc.collect()
        gc.disable()
        for name, call in list(peers.items())[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        gc.enable()
    return {name: taken[unseen:] for name, taken in times.items()}


def medians(peers, rounds, unseen=0):
    """The median seconds of every peer."""
    return {name: statistics.median(taken) for name, taken in in_turn(peers, rounds, unseen).items()}


def machine(**versions):
    """Where this runs, and on what, in a line; more libraries by name."""
    device, cores = jax.devices()[0].device_kind, len(os.sched_getaffinity(0))
    libraries = {"Python": platform.python_version(), "JAX": jax.__version__, "Optax": optax.__version__, **versions}
    listed = ", ".join(f"{name} {version}" for name, version in libraries.items())
    return f"{platform.machine()}, {platform.system()}, {cores} cores, {len(jax.devices())} {device} device, {listed}"
