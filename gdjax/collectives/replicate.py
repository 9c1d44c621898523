"""A copy of a tree for every device, as `pmap` takes and returns it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax import tree as trees
from gdjax.explaining import explain_errors
from gdjax.value.printing import brief


@explain_errors("replicate")
def replicate(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """Put a copy of every leaf on every device, along a new first axis: what `pmap` maps over.

    Counters of shape () and keys get that axis too. Each copy has a buffer of its own, to be donated.

    Args:
      tree: arrays and numbers.
      devices: by default all of this process, in the order in which `pmap` takes them.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> state = gd.replicate(gd.adam(0.1).init(jnp.zeros(3)))
    >>> state[0].mu.shape == (jax.local_device_count(), 3), gd.unreplicate(state)[0].mu.shape
    (True, (3,))
    """
    if devices is not None and not (
        isinstance(devices, (list, tuple)) and all(isinstance(device, jax.Device) for device in devices)
    ):
        way = ", or none for all of this process"
        raise TypeError(f"replicate: devices must be a list of devices, jax.devices(){way}, got {brief(devices)}.")
    devices = list(devices or jax.local_devices())
    sharding = NamedSharding(Mesh(np.array(devices), ("replicas",)), PartitionSpec("replicas"))

    def copies(x: Any) -> jax.Array:
        one = jnp.expand_dims(x, 0)
        buffers = [jax.device_put(jnp.copy(one), device) for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *jnp.shape(x)), sharding, buffers)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Any) -> Any:
    """The first of the copies, on its device.

    Args:
      tree: what `pmap` returned, or `replicate`.

    Raises:
      ValueError: if a leaf has no first axis that is divided over devices, one each: it was not mapped
        (`out_axes=None` of `pmap` gives such leaves).
    """

    def first(keys: Any, x: Any) -> Any:
        copy = x.addressable_shards[0].data if isinstance(x, jax.Array) else np.asarray(x)
        if jnp.ndim(copy) and (copy.shape[0] == 1 or not isinstance(x, jax.Array)):
            return copy[0]
        where = f" at {path!r}" if (path := trees.path(keys)) else ""
        raise ValueError(
            f"unreplicate: every leaf must have a first axis of copies, one on each device, got shape {jnp.shape(x)}"
            f"{where}: it is one already, as out_axes=None of pmap makes it."
        )

    return jax.tree_util.tree_map_with_path(first, tree)
