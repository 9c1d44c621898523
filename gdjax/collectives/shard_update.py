"""Every member of an axis updates a part of the parameters, and keeps the state of that part alone."""

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
def shard_update(inner: optax.GradientTransformation, axis_name: Any):
    r"""Divide the update over a named axis: each of its $N$ members keeps and updates $1/N$ of the state.

    The gradients, each member's own, are reduce-scattered to means of parts of the leaves; the inner transform updates
    the parts; the updates are gathered, or by `gd.descend` (as `make_step` steps) the parameters themselves, in place.
    A leaf is cut along the first of its dimensions that $N$ divides; where none is divided evenly, its longest is
    filled up with zeros. A scalar is a vector of one number.

    As in `mean_over`, `update(..., weight=w)` takes the mean of weighted gradients.

    State: that of the inner transform for $1/N$ of every leaf, of each member its own: call `init` within the axis,
    too. On the wire: a reduce-scatter and an all-gather of every leaf, as many bytes as its all-reduce.
    Source: Xu et al. 2020 (https://arxiv.org/abs/2004.13336); stages 1 and 2 of Rajbhandari et al. 2019
    (https://arxiv.org/abs/1910.02054).

    Args:
      inner: a transform for which parts of leaves will do: of each number for itself, or with sums over leaves, which
        become sums over the axis. Its factory declares it: `transform(elementwise=True)`, or `shardable=True`.
      axis_name: the axis (of `vmap`, `pmap` or `shard_map`) whose members hold the same parameters, and each gradients
        of its own. A tuple of several is one axis, but under nested `vmap`, where JAX gathers over single ones.

    Raises:
      ValueError: if the inner transform needs whole leaves, with the part of it that does; if the axis is not bound; if
        the type of a gradient says that it is the same on all members.

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
            f"shard_update: for inner, parts of leaves must do, and {name} needs whole ones. Under jit, "
            "gd.sharding.zero divides the state of any transform; one of your own says that parts will do by "
            "transform(elementwise=True), or shardable=True."
        )
    sharded = over(inner, axis_name)

    def init(params):
        return masked_for(sharded, params).init(jax.tree.map(own_part, params))

    def update(updates, state, params=None, *, weight=None, **extra_args):
        held = None if params is None else jax.tree.map(own_part, params)
        moved, state = updated(updates, state, held, weight, extra_args)
        return jax.tree.map(whole, moved, updates), state

    def descend(updates, state, params, *, weight=None, **extra_args):
        held = jax.tree.map(own_part, params)
        moved, state = updated(updates, state, held, weight, extra_args)
        return jax.tree.map(whole, apply_updates(held, moved), params), state

    def updated(updates, state, held, weight, extra_args):
        require_local_grads("shard_update", updates, axis_name)
        own = updates if weight is None else scale_for_mean("shard_update", updates, weight, axis_name)
        means = jax.tree.map(lambda g, like: as_given(mean_of_part(g), like), own, updates)
        if weight is not None and transforms_taking(inner, "weight"):
            extra_args["weight"] = total_weight("shard_update", weight, axis_name)
        return masked_for(sharded, updates).update(means, state, held, **extra_args)

    def as_given(mean, like):
        return mean if mean.dtype == like.dtype else mean.astype(like.dtype)

    def mean_of_part(g):
        number = axes.size(axis_name)
        if (cut := _cut(g, number)) is None:
            return g if g.dtype == jax.dtypes.float0 else axes.pmean(g, axis_name)
        filled = _filled(tree.as_dtype(g, tree.wide(g.dtype)), cut)
        part = lax.psum_scatter(filled, axis_name, scatter_dimension=cut.dim, tiled=True)
        return (part / number).astype(g.dtype)

    def own_part(p):
        number = axes.size(axis_name)
        if (cut := _cut(p, number)) is None:
            return p
        size = cut.size // number
        return lax.dynamic_slice_in_dim(_filled(p, cut), lax.axis_index(axis_name) * size, size, cut.dim)

    def whole(part, like):
        if (cut := _cut(like, axes.size(axis_name))) is None:
            return part
        gathered = axes.all_gather(part, axis_name, cut.dim)
        return jnp.reshape(lax.slice_in_dim(gathered, 0, cut.length, axis=cut.dim), jnp.shape(like))

    return init, update, None, descend


class _Cut(NamedTuple):
    """Where a leaf is cut, how long it is there, and how long it must be."""

    dim: int
    length: int
    size: int


def _cut(x: Any, number: int) -> _Cut | None:
    """The cut of a leaf into a number of parts; none of one without elements, or of the gradient of integers."""
    shape = jnp.shape(x) or (1,)
    if 0 in shape or getattr(x, "dtype", None) == jax.dtypes.float0:
        return None
    even = (dim for dim, length in enumerate(shape) if length % number == 0)
    dim = next(even, max(range(len(shape)), key=shape.__getitem__))
    return _Cut(dim, shape[dim], -(-shape[dim] // number) * number)


def _filled(x: Any, cut: _Cut) -> jax.Array:
    """A leaf with zeros at its end, where it is too short to be cut evenly."""
    x = jnp.atleast_1d(x)
    return jnp.pad(x, [(0, (cut.size - cut.length) * (dim == cut.dim)) for dim in range(x.ndim)])
