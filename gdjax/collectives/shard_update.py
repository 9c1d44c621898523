"""Weight-update sharding: each device updates a shard of the parameters, and keeps the state of that shard only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gdjax import axes, tree
from gdjax.collectives.local_grads import require_axis_name, require_local_grads
from gdjax.compose.apply_updates import apply_updates
from gdjax.value import transform
from gdjax.value.factory import opaque_transform
from gdjax.value.traits import find_lacking, masked_for, over, transforms_taking
from gdjax.weighted_means import scale_for_mean, total_weight


@transform(takes_local_grads=True)
def shard_update(inner: optax.GradientTransformation, axis_name: axes.AxisName):
    r"""Shard the update over a named axis: each of its $N$ devices keeps and updates $1/N$ of the state.

    Per-device gradients are reduce-scattered to means of shards, the inner transform updates the shards, and the
    updates are gathered. With `gd.descend` (as in `make_step`) the new parameters are gathered instead.

    A leaf is sharded along its first dimension that $N$ divides. If there is none, its longest dimension is padded with
    zeros. A scalar is a vector of one number.

    As in `mean_over`, `update(..., weight=w)` takes the weighted mean.

    State: that of the inner transform for $1/N$ of every leaf. It is per-device: call `init` within the axis too. On
    the wire: a reduce-scatter and an all-gather of every leaf, together the bytes of its all-reduce.
    Source: Xu et al. 2020 (https://arxiv.org/abs/2004.13336); stages 1 and 2 of Rajbhandari et al. 2019
    (https://arxiv.org/abs/1910.02054).

    Args:
      inner: a transform that can see shards of leaves: an elementwise one, or one whose sums over leaves also run over
        the axis. Its factory declares this: `transform(elementwise=True)`, or `shardable=True`.
      axis_name: the axis of `vmap`, `pmap` or `shard_map` over which parameters are replicated and gradients are
        per-device. A tuple of names is one axis, except under nested `vmap`, where JAX gathers over single names only.

    Raises:
      ValueError: if the inner transform needs complete leaves (the error names its part that does); if the axis is not
        bound; if the type of a gradient is invariant over the axis.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> tx, w = gd.shard_update(gd.adam(0.1), "data"), jnp.zeros(4)
    >>> def step(g):
    ...     return tx.update(g, tx.init(w), w)
    >>> updates, state = jax.vmap(step, axis_name="data")(jnp.array([[1.0, 1, 1, 1], [3, 3, 3, 3]]))
    >>> print(updates[0], state[0].mu.shape)
    [-0.1 -0.1 -0.1 -0.1] (2, 2)
    """
    axis_name = require_axis_name("shard_update", axis_name)
    if (part := find_lacking(inner, lambda tx: tx.factory.traits.shardable)) is not None:
        name = "a plain Optax transformation" if part.factory is opaque_transform else part.factory.__name__
        raise ValueError(
            f"shard_update: inner must take shards of leaves, and {name} needs complete ones. Under jit, "
            "gd.sharding.zero shards the state of any transform. A transform of yours declares that it takes shards by "
            "transform(elementwise=True) or transform(shardable=True)."
        )
    sharded = over(inner, axis_name)

    def init(params):
        return masked_for(sharded, params).init(jax.tree.map(local_shard, params))

    def update(updates, state, params=None, *, weight=None, **extra_args):
        shards = None if params is None else jax.tree.map(local_shard, params)
        sharded_updates, state = update_shards(updates, state, shards, weight, extra_args)
        return jax.tree.map(gather, sharded_updates, updates), state

    def descend(updates, state, params, *, weight=None, **extra_args):
        shards = jax.tree.map(local_shard, params)
        sharded_updates, state = update_shards(updates, state, shards, weight, extra_args)
        return jax.tree.map(gather, apply_updates(shards, sharded_updates), params), state

    def update_shards(updates, state, shards, weight, extra_args):
        require_local_grads("shard_update", updates, axis_name)
        local = updates if weight is None else scale_for_mean("shard_update", updates, weight, axis_name)
        means = jax.tree.map(lambda g, like: cast_like(mean_shard(g), like), local, updates)
        if weight is not None and transforms_taking(inner, "weight"):
            extra_args["weight"] = total_weight("shard_update", weight, axis_name)
        return masked_for(sharded, updates).update(means, state, shards, **extra_args)

    def cast_like(mean, like):
        return mean if mean.dtype == like.dtype else mean.astype(like.dtype)

    def mean_shard(g):
        devices = axes.size(axis_name)
        if (plan := _plan(g, devices)) is None:
            return g if g.dtype == jax.dtypes.float0 else axes.pmean(g, axis_name)
        padded = _pad(tree.as_dtype(g, tree.wide(g.dtype)), plan)
        shard = lax.psum_scatter(padded, axis_name, scatter_dimension=plan.dim, tiled=True)
        return (shard / devices).astype(g.dtype)

    def local_shard(p):
        devices = axes.size(axis_name)
        if (plan := _plan(p, devices)) is None:
            return p
        size = plan.padded // devices
        return lax.dynamic_slice_in_dim(_pad(p, plan), lax.axis_index(axis_name) * size, size, plan.dim)

    def gather(shard, like):
        if (plan := _plan(like, axes.size(axis_name))) is None:
            return shard
        gathered = axes.all_gather(shard, axis_name, plan.dim)
        return jnp.reshape(lax.slice_in_dim(gathered, 0, plan.length, axis=plan.dim), jnp.shape(like))

    return init, update, None, descend


class _ShardPlan(NamedTuple):
    """The dimension along which a leaf is sharded, its length, and its length with padding."""

    dim: int
    length: int
    padded: int


def _plan(x: Any, devices: int) -> _ShardPlan | None:
    """Return how a leaf is sharded; `None` for a leaf without elements, or the gradient of integers."""
    shape = jnp.shape(x) or (1,)
    if 0 in shape or getattr(x, "dtype", None) == jax.dtypes.float0:
        return None
    divisible = (dim for dim, length in enumerate(shape) if length % devices == 0)
    dim = next(divisible, max(range(len(shape)), key=shape.__getitem__))
    return _ShardPlan(dim, shape[dim], -(-shape[dim] // devices) * devices)


def _pad(x: Any, plan: _ShardPlan) -> jax.Array:
    """Return a leaf padded with zeros so that devices divide it evenly."""
    x = jnp.atleast_1d(x)
    return jnp.pad(x, [(0, (plan.padded - plan.length) * (dim == plan.dim)) for dim in range(x.ndim)])
