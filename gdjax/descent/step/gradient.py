"""The gradient of a loss at a batch: over micro-batches, and over a named axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding

from gdjax import axes, tree
from gdjax.descent.step.loss import FullLoss, Loss, full_loss
from gdjax.descent.step.per_device import batch_sharding_of, per_device_gradient, require_batch_sharding
from gdjax.descent.step.weighting import (
    Shares,
    Weight,
    batch_weight,
    is_float,
    local_shares,
    mean_or_last,
    micro_batch_weights,
)
from gdjax.specs import explicit_mesh, spec_of
from gdjax.value.diagnose import require_count, require_inexact
from gdjax.value.printing import brief
from gdjax.weighted_means import scale_by_factor

NOT_TRAINABLE = "Close over such leaves, or put them in the `extra` of a State."
"""The fix for leaves of the parameters that have no gradient."""


class Gradient(NamedTuple):
    """The loss and its gradient at one batch."""

    value: jax.Array
    """The loss, of shape ()."""
    grads: optax.Updates
    """The gradient; over an axis the mean over its devices, unless `local` was asked for."""
    extra: Any
    """The `extra` of the next step."""
    aux: Any
    """The `aux` of the loss."""
    local_grads: Any = None
    """Over an axis, the gradient of this device, of which `grads` is the mean."""
    weight: Any = None
    """The sum of the weights of the micro-batches, over the axis too; `None` without weights."""


LossFunction = Callable[[Any], jax.Array]
"""The loss of one batch as a function of the parameters."""


def require_trainable(who: str, params: object) -> None:
    """Raise unless every leaf is floating or complex; the statistics of an NNX BatchNorm have no gradient either."""
    if callable(params) and jax.tree.structure(params) == jax.tree.structure(0):
        raise TypeError(f"{who}: params must be arrays, got a function, {brief(params)}; call it, or give its arrays.")
    for path, box in tree.boxes(params):
        if any(kind.__name__ == "BatchStat" for kind in type(box).__mro__):
            raise TypeError(
                f"{who}: params at {path!r} is a BatchStat, which has no gradient. Split the model, graphdef, "
                "params, rest = nnx.split(model, nnx.Param, ...), and put the rest in the `extra` of a State."
            )
    require_inexact(who, "params", params, NOT_TRAINABLE)


def make_gradient(
    loss: Loss,
    *,
    accumulate: int = 1,
    axis_name: axes.AxisName = None,
    weight: Weight | None = None,
    local: bool = False,
    batch_sharding: NamedSharding | None = None,
    has_aux: bool | None = False,
    who: str = "make_step",
) -> Callable[..., tuple[Gradient, LossFunction]]:
    """Return `gradient(params, batch, key, extra)`: the gradient, and the loss of that batch as a function.

    Over an axis it is the gradient of the mean of the losses that the devices return. A loss that is invariant by its
    type counts once for each device, as it does under `vmap` and `pmap`, which track no types.

    Args:
      loss: as in `make_step`, and so are the arguments not listed here.
      local: return the gradient of each device, without a mean over the axis.
      has_aux: `None` decides by the value that the loss returns.
      who: the public function, named in errors.
    """
    require_count(who, "accumulate", accumulate)
    if batch_sharding is not None:
        require_batch_sharding(who, batch_sharding, axis_name)
    full = full_loss(loss, has_aux, who)

    def varying_loss(params: Any, batch: Any, key: Any, extra: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        value, rest = full(params, batch, key, extra)
        if weight is not None and accumulate == 1:
            _require_varying(who, value, axis_name)
        return axes.mark_varying(value, axis_name), rest

    def local_gradient(params: Any, batch: Any, key: Any, extra: Any, shares: Shares | None) -> Gradient:
        if accumulate == 1:
            share = None if shares is None else shares.micro_batches[0] * shares.device
            return _batch_gradient(varying_loss, params, batch, key, extra, share)
        return _accumulated_gradient(varying_loss, params, _micro_batches(batch, accumulate), key, extra, shares)

    def local_weights(batch: Any) -> jax.Array:
        assert weight is not None
        if accumulate == 1:
            return batch_weight(weight, batch)
        return micro_batch_weights(weight, _micro_batches(batch, accumulate))

    def gradient(params: Any, batch: Any, key: Any, extra: Any) -> tuple[Gradient, LossFunction]:
        require_trainable(who, params)
        if axis_name is None and accumulate > 1 and (over := batch_sharding_of(batch, params, batch_sharding)):
            weights = local_weights if weight else None
            per_device = per_device_gradient(local_gradient, batch, key, extra, accumulate, over, weights)
            return per_device(params), _differentiable_loss(per_device)
        with axes.name_errors(who):
            key = key if axis_name is None else jax.random.fold_in(key, axes.axis_index(axis_name))
            shares = local_shares(local_weights(batch), None if local else axis_name) if weight else None

        def at(params: Any) -> Gradient:
            varying = axes.mark_varying((params, batch, key, extra), axis_name)
            return local_gradient(*varying, shares=shares)

        def mean_at(params: Any) -> Gradient:
            return _axis_mean(at(params), None if shares is None else shares.device, axis_name)

        def value_at(params: Any) -> jax.Array:
            return _loss_value(varying_loss, accumulate, params, batch, key, extra, shares)

        if axis_name is None or local:
            found, value_fn = at(params), value_at
        else:
            found, value_fn = mean_at(params), _differentiable_loss(mean_at)
        return found._replace(weight=None if shares is None else shares.total), value_fn

    return gradient


def _require_varying(who: str, value: jax.Array, axis_name: axes.AxisName) -> None:
    """Raise for a weighted loss that is invariant over the axis by its type: the weights would cancel."""
    if axis_name is not None and not axes.sharded_axes(value, axis_name):
        raise ValueError(
            f"{who}: weight has no effect on a loss that is invariant over the axis {axis_name!r}, as its type says: "
            "it ends in a psum or pmean. Return the loss of each device, or leave weight out."
        )


def _batch_gradient(
    loss: FullLoss, params: Any, batch: Any, key: Any, extra: Any, share: jax.Array | None = None
) -> Gradient:
    """Return the loss, and the gradient of `share` times the loss."""
    value, pull, (extra, aux) = jax.vjp(lambda params: loss(params, batch, key, extra), params, has_aux=True)
    cotangent = jnp.ones_like(value) if share is None else share.astype(value.dtype)
    (grads,) = pull(axes.cast_varying(cotangent, axes.varying_axes(value)))
    if share is not None:  # a share of 0 times an infinite slope is NaN
        grads = jax.tree.map(lambda g: jnp.where((share == 0) & ~jnp.isfinite(g), 0, g), grads)
    return Gradient(value, jax.tree.map(jnp.conj, grads), extra, aux)


def _accumulated_gradient(
    loss: FullLoss, params: Any, micro_batches: Any, key: Any, extra: Any, shares: Shares | None = None
) -> Gradient:
    """Return the mean over micro-batches, summed in float32 or wider; the gradient contains this device's share."""
    number = jax.tree.leaves(micro_batches)[0].shape[0]
    micro_shares = None if shares is None else shares.micro_batches
    power = 0.5 ** (number - 1).bit_length()  # a power of two is exact, and keeps the sum in the range of its terms

    def add(carry, item):
        total, extra = carry
        index, micro_batch, share = item
        grad_share = None if shares is None else share * shares.device
        one = _batch_gradient(loss, params, micro_batch, jax.random.fold_in(key, index), extra, grad_share)
        value = one.value if share is None else scale_by_factor(share, one.value)
        total = jax.tree.map(lambda t, x: t + x * power, total, tree.widen((value, one.grads)))
        return (total, _next_extra(extra, one.extra, share)), one.aux

    first = jax.tree.map(lambda x: x[0], micro_batches)
    value, _ = jax.eval_shape(loss, params, first, key, extra)
    like = value, params
    mesh = explicit_mesh((params, first))
    zeros = jax.tree.map(lambda x: _zeros_like(x, mesh), like)
    (total, extra), aux = jax.lax.scan(add, (zeros, extra), (jnp.arange(number), micro_batches, micro_shares))
    value, grads = jax.tree.map(lambda x, as_: (x / (number * power)).astype(jnp.result_type(as_)), total, like)
    return Gradient(value, grads, extra, jax.tree.map(lambda x: mean_or_last(x, micro_shares), aux))


def _next_extra(before: Any, after: Any, share: jax.Array | None) -> Any:
    """Return the `extra` of the next micro-batch; a micro-batch of weight 0 leaves its floats unchanged."""
    if share is None:
        return after
    return jax.tree.map(lambda old, new: jnp.where(share == 0, old, new) if is_float(new) else new, before, after)


def _zeros_like(like: Any, mesh: AbstractMesh | None) -> jax.Array:
    """Return zeros in float32 or wider; on a mesh with Explicit axes they are sharded like the array."""
    zeros = axes.cast_varying(jnp.zeros(jnp.shape(like), tree.wide(jnp.result_type(like))), axes.varying_axes(like))
    return zeros if mesh is None else jax.reshard(zeros, NamedSharding(mesh, spec_of(like)))


def _loss_value(
    loss: FullLoss, number: int, params: Any, batch: Any, key: Any, extra: Any, shares: Shares | None
) -> jax.Array:
    """Return the loss alone, computed with the same keys as its gradient."""
    if number == 1:
        return loss(params, batch, key, extra)[0]
    micro_shares = None if shares is None else shares.micro_batches

    def add(carry, item):
        index, micro_batch, share = item
        value, (extra, _) = loss(params, micro_batch, jax.random.fold_in(key, index), carry)
        return _next_extra(carry, extra, share), value

    items = (jnp.arange(number), _micro_batches(batch, number), micro_shares)
    return mean_or_last(jax.lax.scan(add, extra, items)[1], micro_shares)


def _micro_batches(batch: Any, number: int) -> Any:
    """Split a batch into micro-batches along a new first axis."""

    def split(path: Any, x: Any) -> jax.Array:
        if not jnp.ndim(x) or jnp.shape(x)[0] % number:
            raise ValueError(
                f"make_step: a batch must split into accumulate={number} equal parts along its first axis, "
                f"got shape {jnp.shape(x)} at {tree.path(path)!r}."
            )
        strided = jnp.reshape(x, (-1, number, *jnp.shape(x)[1:]))  # each device keeps its rows in every micro-batch
        return jnp.swapaxes(strided, 0, 1)

    if not jax.tree.leaves(batch):
        raise ValueError(f"make_step: accumulate={number} needs a batch to split, got {batch!r}.")
    return jax.tree_util.tree_map_with_path(split, batch)


def _axis_mean(at: Gradient, share: jax.Array | None, axis_name: axes.AxisName) -> Gradient:
    """Return the mean over an axis of all but `aux`, in float32 or wider; the maximum of other leaves of `extra`.

    The gradient contains the share of this device already.
    """

    def mean(x: jax.Array) -> jax.Array:
        return axes.pmean(x if share is None else scale_by_factor(share, x), axis_name).astype(x.dtype)

    def mean_or_max(x: jax.Array) -> jax.Array:
        return mean(x) if is_float(x) else jax.lax.pmax(x, axis_name)

    means = jax.tree.map(lambda g: axes.pmean(g, axis_name), at.grads)
    return Gradient(mean(at.value), means, jax.tree.map(mean_or_max, at.extra), at.aux, at.grads)


def _differentiable_loss(at: Callable[[Any], Gradient]) -> LossFunction:
    """Return the loss as a function whose derivative is the mean gradient, under every kind of axis."""

    @jax.custom_vjp
    def value(params: Any) -> jax.Array:
        return at(params).value

    def forward(params: Any) -> tuple[jax.Array, Any]:
        found = at(params)
        return found.value, found.grads

    def backward(grads: Any, cotangent: Any) -> tuple[Any]:
        return (jax.tree.map(lambda g: (cotangent * jnp.conj(g)).astype(g.dtype), grads),)

    value.defvjp(forward, backward)
    return value
