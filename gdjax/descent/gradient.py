"""The gradient of a loss at a batch: with a key, in parts, over an axis."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import axes, tree
from gdjax.descent.losses import called
from gdjax.value.diagnose import require_count, require_inexact

WAY = "Close over such leaves, or put them in the `extra` of a State."
"""Out of parameters that are not descended on."""


class Gradient(NamedTuple):
    """What a loss says of the parameters at one batch."""

    value: jax.Array
    grads: Any
    extra: Any
    aux: Any


def make_gradient(
    loss: Callable[..., Any],
    *,
    accumulate: int = 1,
    axis_name: Any = None,
    has_aux: bool | None = False,
    who: str = "make_step",
) -> Callable[..., tuple[Gradient, Callable[[Any], Any]]]:
    """A function of `(params, batch, key, extra)` that returns the gradient there, and that batch's loss as a function.

    With `has_aux=None` it is what the loss returns that tells.
    """
    require_count(who, "accumulate", accumulate)
    whole = called(loss, has_aux, who)

    def of(params: Any, batch: Any, key: Any, extra: Any) -> Gradient:
        if accumulate == 1:
            return _one(whole, params, batch, key, extra)
        return _many(whole, params, _parts(batch, accumulate), key, extra)

    def gradient(params: Any, batch: Any, key: Any, extra: Any) -> tuple[Gradient, Callable[[Any], Any]]:
        require_inexact(who, "params", params, WAY)
        if axis_name is None:
            return of(params, batch, key, extra), lambda params: _value(whole, accumulate, params, batch, key, extra)
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        def at(params: Any) -> Gradient:
            return _mean(of(*axes.vary((params, batch, key, extra), axis_name)), axis_name)

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
    like = jax.eval_shape(functools.partial(_one, whole), params, first, key, extra)
    zeros = jax.tree.map(_zeros, (like.value, like.grads))
    (total, extra), aux = jax.lax.scan(add, (zeros, extra), (jnp.arange(number), parts))
    value, grads = jax.tree.map(lambda x, as_: (x / number).astype(as_.dtype), total, (like.value, like.grads))
    return Gradient(value, grads, extra, jax.tree.map(_mean_or_last, aux))


def _zeros(like: Any) -> jax.Array:
    return axes.cast(jnp.zeros(like.shape, tree.wide(like.dtype)), axes.differing(like))


def _mean_or_last(stacked: jax.Array) -> jax.Array:
    return stacked.mean(0) if jnp.issubdtype(stacked.dtype, jnp.inexact) else stacked[-1]


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
        return jnp.reshape(x, (number, -1, *jnp.shape(x)[1:]))

    if not jax.tree.leaves(batch):
        raise ValueError(f"make_step: accumulate={number} needs a batch to cut, got {batch!r}.")
    return jax.tree_util.tree_map_with_path(cut, batch)


def _mean(at: Gradient, axis_name: Any) -> Gradient:
    """The mean over an axis of all but `aux`; of what is no float in `extra`, the greatest."""
    mean = functools.partial(jax.lax.pmean, axis_name=axis_name)

    def shared(x: Any) -> Any:
        return mean(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else jax.lax.pmax(x, axis_name)

    return Gradient(mean(at.value), jax.tree.map(mean, at.grads), jax.tree.map(shared, at.extra), at.aux)


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
