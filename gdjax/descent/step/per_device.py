"""Micro-batches under `jit`: each device sums its local gradients, and the sums are reduced once."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from gdjax import axes, tree
from gdjax.descent.step.weighting import Shares, global_shares, is_float, mean_or_last
from gdjax.specs import explicit_mesh, spec_of
from gdjax.tree import Tree


def require_batch_sharding(who: str, sharding: object, axis_name: axes.AxisName) -> None:
    """Raise unless `batch_sharding` shards the first axis and no named axis is given beside it."""
    if axis_name is not None:
        raise ValueError(
            f"{who}: batch_sharding is for jit and has no effect over the axis {axis_name!r}: leave one out."
        )
    if not (isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0]):
        must = "batch_sharding must be a NamedSharding that shards the first axis"
        raise ValueError(f"{who}: {must}, got {sharding!r}.")


def batch_sharding_of(batch: Tree, params: optax.Params, given: NamedSharding | None) -> NamedSharding | None:
    """Return how the first axis of a batch is sharded, if it is known and no parameter is sharded over the same axis.

    Where a parameter is, its gradient is best reduced and scattered at every micro-batch.
    """
    if given is not None:
        return given
    types = (jax.typeof(x).sharding for x in jax.tree.leaves(batch))
    sharding = next((NamedSharding(of.mesh, of.spec) for of in types if of.spec and of.spec[0]), None)
    if sharding is None:
        return None
    batch_axes = {*axes.names(sharding.spec[0])}
    param_axes = {name for x in jax.tree.leaves(params) for names in spec_of(x) for name in axes.names(names)}
    return None if batch_axes & param_axes else sharding


def per_device_gradient(
    local_gradient: Callable[..., Any],
    batch: Tree,
    key: jax.Array,
    extra: Tree,
    accumulate: int,
    sharding: NamedSharding,
    weights: Callable[[Any], jax.Array] | None = None,
) -> Callable[[optax.Params], Any]:
    """Return the gradient as a function of the parameters: the mean over devices, reduced once at the end.

    Args:
      local_gradient: `(params, batch, key, extra, shares)`, which returns the gradient of one device's rows.
      batch: all rows.
      key: folded with the number of each device.
      extra: of the state.
      accumulate: micro-batches of each device.
      sharding: of the first axis of the batch.
      weights: returns the weights of one device's micro-batches.
    """
    devices, local_batches = _split_over_devices(batch, accumulate, sharding)
    mesh = explicit_mesh(devices)
    vmap = functools.partial(jax.vmap, spmd_axis_name=sharding.spec[0])

    def on_mesh(x: Any) -> Any:  # with Explicit axes, a loop in vmap must carry arrays of the mesh alone
        is_unplaced = mesh is not None and jax.typeof(x).sharding.mesh.empty
        return jax.reshard(x, NamedSharding(sharding.mesh, PartitionSpec())) if is_unplaced else x

    key, extra = jax.tree.map(on_mesh, (key, extra))
    shares = None if weights is None else global_shares(vmap(weights)(local_batches))
    device_shares, local_shares = (None, None) if shares is None else (shares.device, shares[:2])

    def on_device(params: Any, index: jax.Array, local_batch: Any, local_shares: Any) -> Any:
        own_shares = None if shares is None else Shares(local_shares[0], local_shares[1], shares.total)
        return local_gradient(params, local_batch, jax.random.fold_in(key, index), extra, own_shares)

    def mean(x: jax.Array) -> jax.Array:
        return x.mean(0, tree.wide(x.dtype)).astype(x.dtype)

    def weighted_mean(x: jax.Array) -> jax.Array:
        return mean(x) if device_shares is None else mean_or_last(x, device_shares)

    def mean_or_max(x: jax.Array) -> jax.Array:
        return weighted_mean(x) if is_float(x) else x.max(0)

    def gradient(params: Any) -> Any:
        local = vmap(on_device, (None, 0, 0, 0))(jax.tree.map(on_mesh, params), devices, local_batches, local_shares)
        return local._replace(
            value=weighted_mean(local.value),
            grads=jax.tree.map(mean, local.grads),
            extra=jax.tree.map(mean_or_max, local.extra),
            aux=jax.tree.map(lambda x: mean_or_last(x, device_shares), local.aux),
            weight=None if shares is None else shares.total,
        )

    return gradient


def _split_over_devices(batch: Any, accumulate: int, sharding: NamedSharding) -> tuple[jax.Array, Any]:
    """Return the numbers of the devices that hold the batch, and the batch of shape (devices, rows, ...)."""
    first_axis = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    devices = math.prod(sharding.mesh.shape[name] for name in axes.names(sharding.spec[0]))

    def split(path: Any, x: Any) -> jax.Array:
        shape = jnp.shape(x)
        if not shape or shape[0] % (accumulate * devices):
            raise ValueError(
                f"make_step: a batch must split into accumulate={accumulate} equal parts on each of {devices} devices "
                f"along its first axis, got shape {shape} at {tree.path(path)!r}."
            )
        return _constrain(jnp.reshape(_constrain(x, first_axis), (devices, -1, *shape[1:])), first_axis)

    return _constrain(jnp.arange(devices), first_axis), jax.tree_util.tree_map_with_path(split, batch)


def _constrain(x: Any, sharding: NamedSharding) -> jax.Array:
    """Return an array with its first axis sharded so."""
    is_explicit = sharding.mesh.abstract_mesh.explicit_axes
    return jax.reshard(x, sharding) if is_explicit else jax.lax.with_sharding_constraint(x, sharding)
