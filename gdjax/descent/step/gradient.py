"""The gradient of a loss at a batch: with a key, in parts, over an axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding

from gdjax import axes, tree
from gdjax.descent.step.loss import called
from gdjax.descent.step.per_device import by_members, divided, require_divided
from gdjax.descent.step.weighting import Shares, Weight, is_float, mean_or_last, shares_of, weights_of, weights_of_parts
from gdjax.specs import explicit_mesh, spec_of
from gdjax.value.diagnose import axis_errors, require_count, require_inexact
from gdjax.value.printing import brief
from gdjax.weighted_means import scale_by_factor

WAY = "Close over such leaves, or put them in the `extra` of a State."
"""Out of parameters that are not descended on."""


def require_trainable(who: str, params: Any) -> None:
    """Refuse parameters that are not floating, and the statistics of NNX's BatchNorm, which have no gradient."""
    if callable(params) and jax.tree.structure(params) == jax.tree.structure(0):
        raise TypeError(f"{who}: params must be arrays, got a function, {brief(params)}; call it, or give its arrays.")
    for path, box in tree.boxes(params):
        if any(kind.__name__ == "BatchStat" for kind in type(box).__mro__):
            raise TypeError(
                f"{who}: params at {path!r} is a BatchStat, which has no gradient. Split the model, graphdef, "
                "params, rest = nnx.split(model, nnx.Param, ...), and put the rest in the `extra` of a State."
            )
    require_inexact(who, "params", params, WAY)


class Gradient(NamedTuple):
    """What a loss says of the parameters at one batch."""

    value: jax.Array
    grads: Any
    extra: Any
    aux: Any
    own: Any = None
    """Over an axis, the gradients of this member, of which `grads` are the means."""
    weight: Any = None
    """The sum of the weights of the micro-batches, over the axis too; `None` if there are none."""


def make_gradient(
    loss: Callable[..., Any],
    *,
    accumulate: int = 1,
    axis_name: Any = None,
    weight: Weight | None = None,
    apart: bool = False,
    batch_sharding: NamedSharding | None = None,
    has_aux: bool | None = False,
    who: str = "make_step",
) -> Callable[..., tuple[Gradient, Callable[[Any], Any]]]:
    """A function of `(params, batch, key, extra)` that returns the gradient there, and that batch's loss as a function.

    Over an axis the gradient is that of the mean of the losses that members return; with `apart` it is each member's
    own. A loss that all members share by its type counts once for each of them, as it does where no type tells (`vmap`,
    `pmap`). With `has_aux=None`, what the loss returns decides.
    """
    require_count(who, "accumulate", accumulate)
    if batch_sharding is not None:
        require_divided(who, batch_sharding, axis_name)
    returned = called(loss, has_aux, who)

    def whole(params: Any, batch: Any, key: Any, extra: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        value, rest = returned(params, batch, key, extra)
        if weight is not None and accumulate == 1:
            _require_own(who, value, axis_name)
        return axes.mark_varying(value, axis_name), rest

    def of(params: Any, batch: Any, key: Any, extra: Any, shares: Shares | None) -> Gradient:
        if accumulate == 1:
            return _one(whole, params, batch, key, extra, None if shares is None else shares.parts[0] * shares.member)
        return _many(whole, params, _parts(batch, accumulate), key, extra, shares)

    def weights(batch: Any) -> jax.Array:
        assert weight is not None
        return weights_of(weight, batch) if accumulate == 1 else weights_of_parts(weight, _parts(batch, accumulate))

    def gradient(params: Any, batch: Any, key: Any, extra: Any) -> tuple[Gradient, Callable[[Any], Any]]:
        require_trainable(who, params)
        if axis_name is None and accumulate > 1 and (over := divided(batch, params, batch_sharding)):
            of_all = by_members(of, batch, key, extra, accumulate, over, weights if weight else None)
            return of_all(params), _by_gradient(of_all)
        with axis_errors(who):
            key = key if axis_name is None else jax.random.fold_in(key, axes.axis_index(axis_name))
            shares = shares_of(weights(batch), None if apart else axis_name) if weight else None

        def alone(params: Any) -> Gradient:
            own_params, own_batch, own_key, own_extra = axes.mark_varying((params, batch, key, extra), axis_name)
            return of(own_params, own_batch, own_key, own_extra, shares)

        def value_alone(params: Any) -> jax.Array:
            return _value(whole, accumulate, params, batch, key, extra, shares)

        def at(params: Any) -> Gradient:
            return _mean(alone(params), None if shares is None else shares.member, axis_name)

        together = axis_name is not None and not apart
        found, value_fn = (at(params), _by_gradient(at)) if together else (alone(params), value_alone)
        return found._replace(weight=None if shares is None else shares.total), value_fn

    return gradient


def _require_own(who: str, value: jax.Array, axis_name: Any) -> None:
    """Refuse weights of a loss that all members of an axis share by its type: they would cancel."""
    if axis_name is not None and not axes.sharded_axes(value, axis_name):
        raise ValueError(
            f"{who}: weight has no effect on a loss that is the same on all members of the axis {axis_name!r}, as its "
            "type says: it ends in a psum or pmean. Return each member's own loss, or leave weight out."
        )


def _one(
    whole: Callable[..., Any], params: Any, batch: Any, key: Any, extra: Any, share: jax.Array | None = None
) -> Gradient:
    """Return the loss, and the gradient of a share of it."""
    value, pull, (extra, aux) = jax.vjp(lambda params: whole(params, batch, key, extra), params, has_aux=True)
    one = jnp.ones_like(value) if share is None else share.astype(value.dtype)
    (grads,) = pull(axes.cast_varying(one, axes.varying_axes(value)))
    if share is not None:  # no example: 0 times an infinite slope
        grads = jax.tree.map(lambda g: jnp.where((share == 0) & ~jnp.isfinite(g), 0, g), grads)
    return Gradient(value, jax.tree.map(jnp.conj, grads), extra, aux)


def _many(
    whole: Callable[..., Any], params: Any, parts: Any, key: Any, extra: Any, shares: Shares | None = None
) -> Gradient:
    """Return the mean over the parts of a batch, summed in float32 or wider; this member's share is in the gradient."""
    number = jax.tree.leaves(parts)[0].shape[0]
    of_parts = None if shares is None else shares.parts
    power = 0.5 ** (number - 1).bit_length()  # a power of two: exact, and the sum stays in the range of its terms

    def add(carry, part):
        total, extra = carry
        index, batch, share = part
        counts = None if shares is None else share * shares.member
        one = _one(whole, params, batch, jax.random.fold_in(key, index), extra, counts)
        value = one.value if share is None else scale_by_factor(share, one.value)
        total = jax.tree.map(lambda t, x: t + x * power, total, tree.widen((value, one.grads)))
        return (total, _handed_on(extra, one.extra, share)), one.aux

    first = jax.tree.map(lambda x: x[0], parts)
    value, _ = jax.eval_shape(whole, params, first, key, extra)
    like = value, params
    mesh = explicit_mesh((params, first))
    zeros = jax.tree.map(lambda x: _zeros(x, mesh), like)
    (total, extra), aux = jax.lax.scan(add, (zeros, extra), (jnp.arange(number), parts, of_parts))
    value, grads = jax.tree.map(lambda x, as_: (x / (number * power)).astype(jnp.result_type(as_)), total, like)
    return Gradient(value, grads, extra, jax.tree.map(lambda x: mean_or_last(x, of_parts), aux))


def _handed_on(before: Any, after: Any, share: jax.Array | None) -> Any:
    """Return the `extra` of the next micro-batch; a micro-batch of weight 0 leaves the floats in it unchanged."""
    if share is None:
        return after
    return jax.tree.map(lambda old, new: jnp.where(share == 0, old, new) if is_float(new) else new, before, after)


def _zeros(like: Any, mesh: AbstractMesh | None) -> jax.Array:
    """What a sum of such arrays starts from; over a mesh with Explicit axes divided as they are."""
    zeros = axes.cast_varying(jnp.zeros(jnp.shape(like), tree.wide(jnp.result_type(like))), axes.varying_axes(like))
    return zeros if mesh is None else jax.reshard(zeros, NamedSharding(mesh, spec_of(like)))


def _value(
    whole: Callable[..., Any], number: int, params: Any, batch: Any, key: Any, extra: Any, shares: Shares | None
) -> jax.Array:
    """The loss alone, with the keys that its gradient had."""
    if number == 1:
        return whole(params, batch, key, extra)[0]
    of_parts = None if shares is None else shares.parts

    def add(carry, part):
        index, batch, share = part
        value, (extra, _) = whole(params, batch, jax.random.fold_in(key, index), carry)
        return _handed_on(carry, extra, share), value

    parts = (jnp.arange(number), _parts(batch, number), of_parts)
    return mean_or_last(jax.lax.scan(add, extra, parts)[1], of_parts)


def _parts(batch: Any, number: int) -> Any:
    """A batch cut into parts along a new first axis."""

    def cut(path: Any, x: Any) -> jax.Array:
        if not jnp.ndim(x) or jnp.shape(x)[0] % number:
            raise ValueError(
                f"make_step: a batch must be cut into accumulate={number} equal parts along its first axis, "
                f"got shape {jnp.shape(x)} at {tree.path(path)!r}."
            )
        strided = jnp.reshape(x, (-1, number, *jnp.shape(x)[1:]))  # what devices have of a batch, they have of a part
        return jnp.swapaxes(strided, 0, 1)

    if not jax.tree.leaves(batch):
        raise ValueError(f"make_step: accumulate={number} needs a batch to cut, got {batch!r}.")
    return jax.tree_util.tree_map_with_path(cut, batch)


def _mean(at: Gradient, share: jax.Array | None, axis_name: Any) -> Gradient:
    """Return the mean over an axis of all but `aux`, in float32 or wider; the maximum of other leaves of `extra`.

    The gradients contain the share of this member already.
    """

    def mean(x: Any) -> jax.Array:
        return axes.pmean(x if share is None else scale_by_factor(share, x), axis_name).astype(x.dtype)

    def shared(x: Any) -> jax.Array:
        return mean(x) if is_float(x) else jax.lax.pmax(x, axis_name)

    means = jax.tree.map(lambda g: axes.pmean(g, axis_name), at.grads)
    return Gradient(mean(at.value), means, jax.tree.map(shared, at.extra), at.aux, at.grads)


def _by_gradient(at: Callable[[Any], Gradient]) -> Callable[[Any], jax.Array]:
    """The loss over an axis as a function whose derivative is the mean gradient, under every kind of axis."""

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
