"""Named axes of `vmap`, `pmap` and `shard_map`: their sizes, the arrays that vary over them, and sums over them.

A device is one position along an axis: a real device under `pmap` and `shard_map`, an entry of the batch under `vmap`.

An array is varying over an axis if its value may differ from device to device, and invariant if all devices hold the
same value. Under `shard_map(check_vma=True)` JAX tracks this in the array's type. Elsewhere it is not tracked, and
every array counts as varying.
"""

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gdjax.raveling import ravel_arrays

T = TypeVar("T")

AxisName = Hashable | Sequence[Hashable] | None
"""The name of an axis, several names that count as one axis, or `None`."""


class AxisError(ValueError):
    """An error about a named axis that does not say yet which function needs the axis: a caller adds the name."""


class NamedAxisError(ValueError):
    """An error about a named axis that says which function needs the axis."""


@contextlib.contextmanager
def name_errors(who: str) -> Iterator[None]:
    """Put the name of a function in front of an error about a named axis."""
    try:
        yield
    except AxisError as error:
        raise NamedAxisError(f"{who}: {error}") from None


def names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """Return the names that an axis consists of."""
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)


def size(axis_name: AxisName) -> int:
    """Return the number of devices along an axis; 1 for `None`."""
    return math.prod(_require_bound(lax.axis_size, name) for name in names(axis_name))


def axis_index(axis_name: AxisName) -> jax.Array:
    """Return the index of this device along an axis."""
    require_bound(axis_name)
    return lax.axis_index(axis_name)


def is_bound(axis_name: AxisName) -> bool:
    """Return whether an axis is bound by a `vmap`, `pmap` or `shard_map` around this call."""
    try:
        require_bound(axis_name)
    except AxisError:
        return False
    return True


def require_bound(axis_name: AxisName) -> None:
    """Refuse an axis that is not bound."""
    size(axis_name)


def _require_bound(ask: Callable[[Hashable], Any], name: Hashable) -> Any:
    """Return `ask(name)`, or refuse the name if no such axis is bound."""
    try:
        return ask(name)
    except NameError:
        raise AxisError(
            f"the axis {name!r} must be bound, got no axis of this name. Call init and update within "
            f"vmap(..., axis_name={name!r}), pmap or shard_map. Matrix methods also take an axis of jax.set_mesh(mesh)."
        ) from None


def varying_axes(x: ArrayLike) -> frozenset[Hashable]:
    """Return the axes over which an array varies according to its type."""
    return jax.typeof(x).manual_axis_type.varying


def tracked_axes(axis_name: AxisName) -> frozenset[Hashable]:
    """Return the names of an axis that JAX tracks in types: those of `shard_map(check_vma=True)`."""
    return frozenset(name for name in names(axis_name) if name in varying_axes(_require_bound(lax.axis_index, name)))


def sharded_axes(x: ArrayLike, axis_name: AxisName) -> tuple[Hashable, ...]:
    """Return the names of an axis over which an array is sharded; names that JAX does not track are included."""
    tracked = tracked_axes(axis_name)
    return tuple(name for name in names(axis_name) if name not in tracked or name in varying_axes(x))


def sharded_dim(x: ArrayLike, axis_name: AxisName, dim: int) -> int | None:
    """Return the dimension along which an array is sharded over an axis; `None` if it is not.

    A vector is sharded along its only dimension, any other array along `dim`.
    """
    if not jnp.ndim(x) or not sharded_axes(x, axis_name):
        return None
    if jnp.ndim(x) == 1:
        return 0
    if not -jnp.ndim(x) <= dim < jnp.ndim(x):
        raise AxisError(
            f"dim must be a dimension of every leaf that is sharded over the axis {axis_name!r}, got {dim} and a leaf "
            f"of shape {jnp.shape(x)}. Give such leaves another dim by by_path."
        )
    return dim % jnp.ndim(x)


def global_shape(x: ArrayLike, axis_name: AxisName, dim: int) -> tuple[int, ...]:
    """Return the shape of the array of which `x` is a shard along `dim`."""
    at = sharded_dim(x, axis_name, dim)
    shards = size(sharded_axes(x, axis_name))
    return tuple(length * shards if i == at else length for i, length in enumerate(jnp.shape(x)))


def reduction_axes(x: ArrayLike, dims: Sequence[int], axis_name: AxisName, dim: int) -> tuple[Hashable, ...]:
    """Return the names over which a sum along `dims` continues, because the array is sharded along one of them.

    >>> import jax.numpy as jnp
    >>> reduction_axes(jnp.ones((2, 3)), (1,), None, 0)
    ()
    """
    at = sharded_dim(x, axis_name, dim)
    return () if at is None or at not in [i % jnp.ndim(x) for i in dims] else sharded_axes(x, axis_name)


def mark_varying(values: T, axis_name: AxisName) -> T:
    """Return the same values, typed as varying over an axis where JAX tracks it."""
    tracked = tracked_axes(axis_name)
    return jax.tree.map(lambda x: cast_varying(x, tracked), values) if tracked else values


def cast_varying(x: jax.Array, over: frozenset[Hashable]) -> jax.Array:
    """Return an array whose type varies over the given axes, besides those over which it varies already."""
    missing = tuple(sorted(over - varying_axes(x), key=str))
    return lax.pcast(x, missing, to="varying") if missing else x


def zeros_varying_like(like: ArrayLike, x: jax.Array) -> jax.Array:
    """Return zeros shaped and sharded like `x`, invariant over every axis over which `like` is."""
    if varying_axes(x) <= varying_axes(like):
        return jnp.zeros_like(x)
    return cast_varying(jnp.zeros(jnp.shape(x), x.dtype), varying_axes(like))


def psum(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """Return the sum over an axis; `x` itself for `None`."""
    return lax.psum(x, axis_name) if names(axis_name) else x


def pmean(x: jax.Array, axis_name: AxisName, dtype: DTypeLike | None = None) -> jax.Array:
    """Return the mean over an axis in the dtype of `x`, summed in `dtype`: by default float32 or wider."""
    return lax.pmean(x.astype(sum_dtype(x.dtype, dtype)), axis_name).astype(x.dtype)


def sum_dtype(of: DTypeLike, requested: DTypeLike | None = None) -> DTypeLike:
    """Return the dtype in which numbers of a dtype are summed: float32 or wider, or the requested one.

    Complex numbers are summed as complex numbers.
    """
    if requested is None:
        return of if jnp.finfo(of).bits >= 32 else jnp.float32
    return jnp.promote_types(requested, jnp.complex64) if jnp.issubdtype(of, jnp.complexfloating) else requested


def psum_arrays(xs: Sequence[jax.Array], over: Sequence[tuple[Hashable, ...]]) -> list[jax.Array]:
    """Return the sum of each array over its own names.

    Arrays that share dtype, names and varying axes are summed in one collective.
    """
    groups: dict[Any, list[int]] = {}
    for i, (x, summed) in enumerate(zip(xs, over, strict=True)):
        if summed:
            groups.setdefault((summed, x.dtype, varying_axes(x)), []).append(i)
    sums = list(xs)
    for (summed, *_), places in groups.items():
        flat, split = ravel_arrays([xs[i] for i in places])
        for i, x in zip(places, split(lax.psum(flat, summed)), strict=True):
            sums[i] = x
    return sums


def psum_scalars(scalars: T, like: T, axis_name: AxisName) -> T:
    """Sum a tree of scalars over an axis, one for each leaf of `like`.

    The scalar of a leaf that is not sharded over the axis stays as it is.
    """
    if axis_name is None:
        return scalars
    leaves, treedef = jax.tree.flatten(scalars)
    return treedef.unflatten(psum_arrays(leaves, [sharded_axes(leaf, axis_name) for leaf in jax.tree.leaves(like)]))


def any_over_axis(flags: T, axis_name: AxisName) -> T:
    """Return, for each flag of a tree, whether it is set on any device that holds a shard of its leaf."""
    if axis_name is None:
        return flags
    counts = jax.tree.map(lambda flag: flag.astype(jnp.int32), flags)
    return jax.tree.map(lambda count: count > 0, psum_scalars(counts, counts, axis_name))


def all_gather(x: jax.Array, axis_name: AxisName, axis: int = 0) -> jax.Array:
    """Concatenate the shards of all devices along a dimension; the result is typed as invariant."""
    to = "invarying" if tracked_axes(axis_name) else "varying"
    return lax.all_gather(x, axis_name, axis=axis, tiled=True, to=to)
