"""The gradient of a loss at a batch: with a key, in parts, over an axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding

from gdjax import axes, tree
from gdjax.descent.losses import called
from gdjax.descent.members import by_members, divided, is_float, mean_or_last, require_divided
from gdjax.value.diagnose import require_count, require_inexact, unbound
from gdjax.value.explicit import explicit_mesh, spec_of
from gdjax.value.printing import brief

WAY = "Close over such leaves, or put them in the `extra` of a State."
"""Out of parameters that are not descended on."""


def require_trainable(who: str, params: Any) -> None:
    """Refuse parameters that are no floats, and the statistics of NNX's BatchNorm, which no gradient moves."""
    if callable(params) and jax.tree.structure(params) == jax.tree.structure(0):
        raise TypeError(f"{who}: params must be arrays, got a function, {brief(params)}; call it, or give its arrays.")
    for path, box in tree.boxes(params):
        if any(kind.__name__ == "BatchStat" for kind in type(box).__mro__):
            raise TypeError(
                f"{who}: params at {path!r} is a BatchStat, which is not descended on. Split the model, graphdef, "
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


def make_gradient(
    loss: Callable[..., Any],
    *,
    accumulate: int = 1,
    axis_name: Any = None,
    weight: Callable[[Any], Any] | None = None,
    apart: bool = False,
    batch_sharding: NamedSharding | None = None,
    has_aux: bool | None = False,
    who: str = "make_step",
) -> Callable[..., tuple[Gradient, Callable[[Any], Any]]]:
    """A function of `(params, batch, key, extra)` that returns the gradient there, and that batch's loss as a function.

    Over an axis the gradient is the mean of its members', or with `apart` each member's own. With `has_aux=None` it is
    what the loss returns that tells.
    """
    require_count(who, "accumulate", accumulate)
    if batch_sharding is not None:
        require_divided(who, batch_sharding, axis_name)
    whole = called(loss, has_aux, who)

    def of(params: Any, batch: Any, key: Any, extra: Any) -> Gradient:
        if accumulate == 1:
            return _one(whole, params, batch, key, extra)
        return _many(whole, params, _parts(batch, accumulate), key, extra)

    def gradient(params: Any, batch: Any, key: Any, extra: Any) -> tuple[Gradient, Callable[[Any], Any]]:
        require_trainable(who, params)
        if axis_name is None and accumulate > 1 and (over := divided(batch, params, batch_sharding)):
            of_all = by_members(of, batch, key, extra, accumulate, over)
            return of_all(params), _by_gradient(of_all)
        if axis_name is None:
            return of(params, batch, key, extra), lambda params: _value(whole, accumulate, params, batch, key, extra)
        with unbound(who):
            key = jax.random.fold_in(key, axes.place_of_member(axis_name))

        def alone(params: Any) -> Gradient:
            return of(*axes.vary((params, batch, key, extra), axis_name))

        def at(params: Any) -> Gradient:
            return _mean(alone(params), None if weight is None else weight(batch), axis_name)

        if apart:
            return alone(params), lambda params: _value(whole, accumulate, params, batch, key, extra)
        return at(params), _by_gradient(at)

    return gradient


def _one(whole: Callable[..., Any], params: Any, batch: Any, key: Any, extra: Any) -> Gradient:
    (value, (extra, aux)), grads = jax.value_and_grad(whole, has_aux=True)(params, batch, key, extra)
    return Gradient(value, jax.tree.map(jnp.conj, grads), extra, aux)


def _many(whole: Callable[..., Any], params: Any, parts: Any, key: Any, extra: Any) -> Gradient:
    """The mean over the parts of a batch, summed in float32 or wider."""
    number = jax.tree.leaves(parts)[0].shape[0]

    def add(carry, part):
        total, extra = carry
        index, batch = part
        one = _one(whole, params, batch, jax.random.fold_in(key, index), extra)
        return (jax.tree.map(jnp.add, total, tree.widen((one.value, one.grads))), one.extra), one.aux

    first = jax.tree.map(lambda x: x[0], parts)
    value, _ = jax.eval_shape(whole, params, first, key, extra)
    like = value, params
    mesh = explicit_mesh((params, first))
    zeros = jax.tree.map(lambda x: _zeros(x, mesh), like)
    (total, extra), aux = jax.lax.scan(add, (zeros, extra), (jnp.arange(number), parts))
    value, grads = jax.tree.map(lambda x, as_: (x / number).astype(jnp.result_type(as_)), total, like)
    return Gradient(value, grads, extra, jax.tree.map(mean_or_last, aux))


def _zeros(like: Any, mesh: AbstractMesh | None) -> jax.Array:
    """What a sum of such arrays starts from; over a mesh with Explicit axes divided as they are."""
    zeros = axes.cast(jnp.zeros(jnp.shape(like), tree.wide(jnp.result_type(like))), axes.differing(like))
    return zeros if mesh is None else jax.reshard(zeros, NamedSharding(mesh, spec_of(like)))


def _value(whole: Callable[..., Any], number: int, params: Any, batch: Any, key: Any, extra: Any) -> jax.Array:
    """The loss alone, with the keys that its gradient had."""
    if number == 1:
        return whole(params, batch, key, extra)[0]

    def add(carry, part):
        index, batch = part
        value, (extra, _) = whole(params, batch, jax.random.fold_in(key, index), carry)
        return extra, value

    return jax.lax.scan(add, extra, (jnp.arange(number), _parts(batch, number)))[1].mean()


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


def _mean(at: Gradient, weight: Any, axis_name: Any) -> Gradient:
    """The mean over an axis of all but `aux`, in float32 or wider; of what is no float in `extra`, the greatest."""
    floats = jax.tree.map(lambda x: x if is_float(x) else 0.0, at.extra)
    told = (at.value, at.grads, floats)
    weighed = told if weight is None else axes.weighed(told, weight, axis_name)

    def mean(x: Any, like: Any) -> jax.Array:
        return axes.mean(x, axis_name).astype(like.dtype)

    def shared(x: Any, share: Any) -> jax.Array:
        return mean(share, x) if is_float(x) else jax.lax.pmax(x, axis_name)

    value, grads, floats = weighed
    means, extra = jax.tree.map(mean, grads, at.grads), jax.tree.map(shared, at.extra, floats)
    return Gradient(mean(value, at.value), means, extra, at.aux, tree.cast_like(grads, at.grads))


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
