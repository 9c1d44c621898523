"""Choose the devices of a run: the mesh of `--mesh`, over one process or several."""

import jax
import numpy as np
from jax.sharding import Mesh

from gdjax.cli.arguments import MAX_VIRTUAL_DEVICES, parse_mesh
from gdjax.cli.errors import InputError


def configure_cpu_devices(text: str | None, process_count: int | None) -> None:
    """Configure the virtual CPU devices that a mesh needs. Call it before JAX starts.

    Args:
      text: the mesh, as in `data=8`.
      process_count: the number of processes, if it is known.
    """
    if not text or not process_count:
        return
    device_count = parse_mesh(text)[1]
    if (device_count, process_count) == (1, 1):
        return
    if (per_process := _devices_per_process(text, process_count)) <= MAX_VIRTUAL_DEVICES:
        jax.config.update("jax_num_cpu_devices", per_process)


def make_mesh(text: str | None) -> Mesh | None:
    """Return the mesh, with equally many devices of every process; `None` for one device.

    Args:
      text: the mesh, as in `data=8`. By default one device for a single process, and all devices for several.
    """
    name, device_count = ("data", None) if text is None else parse_mesh(text)
    process_count = jax.process_count()
    if process_count == 1 and device_count in (None, 1):
        return None
    devices = [[device for device in jax.devices() if device.process_index == i] for i in range(process_count)]
    available = min(map(len, devices))
    per_process = available if text is None else _devices_per_process(text, process_count)
    if per_process > available:
        raise InputError(_too_many_devices(str(text), devices[0][0].platform, available, process_count))
    return Mesh(np.array([device for local in devices for device in local[:per_process]]), (name,))


def one_device_per_process() -> Mesh | None:
    """Return a mesh of one device of every process, to communicate before the run has its mesh.

    `None` for one process.
    """
    first = {device.process_index: device for device in reversed(jax.devices())}
    return None if len(first) == 1 else Mesh(np.array([first[process] for process in sorted(first)]), ("process",))


def _devices_per_process(text: str, process_count: int) -> int:
    name, device_count = parse_mesh(text)
    if device_count % process_count:
        multiple = -(-device_count // process_count) * process_count
        raise InputError(
            f"--mesh must have as many devices for each of {process_count} processes, got {text!r}: give --mesh "
            f"{name}={multiple}."
        )
    return device_count // process_count


def _too_many_devices(text: str, platform: str, available: int, process_count: int) -> str:
    """Return the error message for a mesh with more devices than there are."""
    if platform == "cpu":
        available = max(available, MAX_VIRTUAL_DEVICES)
    kind = "virtual CPU devices" if platform == "cpu" else f"{platform} devices"
    per_process = "" if process_count == 1 else f" ({available} for each of {process_count} processes)"
    fix = "give fewer" if platform == "cpu" else "give fewer, or set JAX_PLATFORMS=cpu for virtual devices"
    most, given = available * process_count, parse_mesh(text)[1]
    return f"--mesh must have at most {most} {kind}{per_process}, got {given}: {fix}."
