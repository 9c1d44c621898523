"""Parts of a batch under `jit`: each device sums the gradients of its own, and the sums are reduced once."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax import axes, tree
from gdjax.descent.step.weighting import Shares, is_float, mean_or_last, shares_of_all
from gdjax.specs import explicit_mesh, spec_of


def require_divided(who: str, sharding: Any, axis_name: Any) -> None:
    """Refuse what does not say how a batch is divided, and what is said twice."""
    if axis_name is not None:
        say = f"batch_sharding is of jit, and over the axis {axis_name!r} it has no say: leave one out"
        raise ValueError(f"{who}: {say}.")
    if not (isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0]):
        must = "batch_sharding must be a NamedSharding that divides the first axis"
        raise ValueError(f"{who}: {must}, got {sharding!r}.")


def divided(batch: Any, params: Any, given: NamedSharding | None) -> NamedSharding | None:
    """How the first axis of a batch is divided, if that is known and no parameter is divided over the same.

    Where one is, what is summed is best divided at every part.
    """
    if given is not None:
        return given
    types = (jax.typeof(x).sharding for x in jax.tree.leaves(batch))
    found = next((NamedSharding(of.mesh, of.spec) for of in types if of.spec and of.spec[0]), None)
    if found is None:
        return None
    over = {*axes.names(found.spec[0])}
    taken = {name for x in jax.tree.leaves(params) for names in spec_of(x) for name in axes.names(names)}
    return None if over & taken else found


def by_members(
    of: Callable[..., Any],
    batch: Any,
    key: Any,
    extra: Any,
    number: int,
    over: NamedSharding,
    weights: Callable[[Any], jax.Array] | None = None,
) -> Any:
    """Return the gradient as a function of parameters: the mean over the devices that hold a batch, taken at the end.

    `weights` returns the weights of one device's micro-batches.
    """
    members, parts = _cut(batch, number, over)
    mesh = explicit_mesh(members)
    each_of = functools.partial(jax.vmap, spmd_axis_name=over.spec[0])

    def typed(x: Any) -> Any:  # a loop in vmap must not carry what is on no mesh
        on_none = mesh is not None and jax.typeof(x).sharding.mesh.empty
        return jax.reshard(x, NamedSharding(over.mesh, PartitionSpec())) if on_none else x

    key, extra = jax.tree.map(typed, (key, extra))
    shares = None if weights is None else shares_of_all(each_of(weights)(parts))
    of_members, counts = (None, None) if shares is None else (shares.member, (shares.parts, shares.member))

    def member(params: Any, index: jax.Array, part: Any, counts: Any) -> Any:
        of_member = None if shares is None else Shares(counts[0], counts[1], shares.total)
        return of(params, part, jax.random.fold_in(key, index), extra, of_member)

    def mean(x: jax.Array) -> jax.Array:
        return x.mean(0, tree.wide(x.dtype)).astype(x.dtype)

    def weighted(x: jax.Array) -> jax.Array:
        return mean(x) if of_members is None else mean_or_last(x, of_members)

    def shared(x: jax.Array) -> jax.Array:
        return weighted(x) if is_float(x) else x.max(0)

    def at(params: Any) -> Any:
        each = each_of(member, (None, 0, 0, 0))(jax.tree.map(typed, params), members, parts, counts)
        return each._replace(
            value=weighted(each.value),
            grads=jax.tree.map(mean, each.grads),
            extra=jax.tree.map(shared, each.extra),
            aux=jax.tree.map(lambda x: mean_or_last(x, of_members), each.aux),
            weight=None if shares is None else shares.total,
        )

    return at


def _cut(batch: Any, number: int, over: NamedSharding) -> tuple[jax.Array, Any]:
    """The numbers of those who hold a batch, and the batch with them as its first axis."""
    sharding = NamedSharding(over.mesh, PartitionSpec(over.spec[0]))
    members = math.prod(over.mesh.shape[name] for name in axes.names(over.spec[0]))

    def cut(path: Any, x: Any) -> jax.Array:
        shape = jnp.shape(x)
        if not shape or shape[0] % (number * members):
            raise ValueError(
                f"make_step: a batch must be cut into accumulate={number} equal parts on each of {members} devices "
                f"along its first axis, got shape {shape} at {tree.path(path)!r}."
            )
        return _placed(jnp.reshape(_placed(x, sharding), (members, -1, *shape[1:])), sharding)

    return _placed(jnp.arange(members), sharding), jax.tree_util.tree_map_with_path(cut, batch)


def _placed(x: Any, sharding: NamedSharding) -> jax.Array:
    """The same array, its first axis divided so."""
    typed = sharding.mesh.abstract_mesh.explicit_axes
    return jax.reshard(x, sharding) if typed else jax.lax.with_sharding_constraint(x, sharding)
