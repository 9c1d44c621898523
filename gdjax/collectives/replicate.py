"""Copy a tree to every device, as `pmap` takes and returns it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax import tree as trees
from gdjax.explaining import explain_errors
from gdjax.tree import Tree
from gdjax.value.printing import brief


@explain_errors("replicate")
def replicate(tree: Tree, devices: Sequence[Any] | None = None) -> Tree:
    """Copy every leaf to every device, along a new first axis that `pmap` maps over.

    Counters of shape () and keys get that axis too. Each copy has a separate buffer, so it can be donated.

    Args:
      tree: arrays and numbers.
      devices: the devices; by default all of this process, in the order that `pmap` uses.

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
        raise TypeError(
            "replicate: devices must be a list of devices, such as jax.local_devices(), or None for all devices of "
            f"this process, got {brief(devices)}."
        )
    devices = list(devices or jax.local_devices())
    sharding = NamedSharding(Mesh(np.array(devices), ("replicas",)), PartitionSpec("replicas"))

    def copies(x: Any) -> jax.Array:
        one = jnp.expand_dims(x, 0)
        buffers = [jax.device_put(jnp.copy(one), device) for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *jnp.shape(x)), sharding, buffers)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Tree) -> Tree:
    """Return the first of the copies, on its device.

    Args:
      tree: a result of `pmap` or `replicate`.

    Raises:
      ValueError: if a leaf has no first axis with one copy on each device. `pmap(out_axes=None)` returns such leaves.
    """

    def first(keys: Any, x: Any) -> Any:
        copy = x.addressable_shards[0].data if isinstance(x, jax.Array) else np.asarray(x)
        if jnp.ndim(copy) and (copy.shape[0] == 1 or not isinstance(x, jax.Array)):
            return copy[0]
        where = f" at {path!r}" if (path := trees.path(keys)) else ""
        raise ValueError(
            f"unreplicate: every leaf must have a first axis of copies, one on each device, got shape {jnp.shape(x)}"
            f"{where}. Leave out a leaf that is not replicated, such as one of pmap(out_axes=None)."
        )

    return jax.tree_util.tree_map_with_path(first, tree)
