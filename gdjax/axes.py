"""Named axes, of `vmap`, `pmap` or `shard_map`: who their members are, and what differs among them."""

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gdjax.concrete import require_nonnegative

AxisName = Hashable | Sequence[Hashable] | None
"""A name, several as one axis, or none."""


def names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """The single names of an axis."""
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)


def differing(x: Any) -> frozenset[Any]:
    """The axes over which an array differs by its type."""
    return jax.typeof(x).manual_axis_type.varying


class UnboundError(ValueError):
    """An axis that is not there."""


def tracked(axis_name: AxisName) -> frozenset[Any]:
    """The names of an axis for which types tell what differs over it: those of `shard_map` with `check_vma`."""
    return frozenset(name for name in names(axis_name) if name in differing(_bound(lax.axis_index, name)))


def _bound(of: Callable[[Hashable], Any], name: Hashable) -> Any:
    try:
        return of(name)
    except NameError:
        raise UnboundError(
            f"the axis {name!r} must be there, got no axis of this name. Call it, and init, within "
            f"vmap(..., axis_name={name!r}), pmap or shard_map; what divides matrices, also within jax.set_mesh(mesh)."
        ) from None


def bound(axis_name: AxisName) -> bool:
    """Whether an axis is there."""
    try:
        return size(axis_name) > 0
    except UnboundError:
        return False


def spread(x: Any, axis_name: AxisName) -> tuple[Hashable, ...]:
    """The names of an axis over which an array is divided; all those that no type tells of are among them."""
    known = tracked(axis_name)
    return tuple(name for name in names(axis_name) if name not in known or name in differing(x))


def place_of_member(axis_name: AxisName) -> jax.Array:
    """Which member of an axis this is."""
    size(axis_name)  # it must be there
    return lax.axis_index(axis_name)


def size(axis_name: AxisName) -> int:
    """How many members an axis has; 1 where there is none."""
    return math.prod(_bound(lax.axis_size, name) for name in names(axis_name))


def place(x: Any, axis_name: AxisName, dim: int) -> int | None:
    """Along which of its dimensions an array is divided, `dim` or the only one that it has, if it is."""
    if not jnp.ndim(x) or not spread(x, axis_name):
        return None
    if jnp.ndim(x) == 1:
        return 0
    if not -jnp.ndim(x) <= dim < jnp.ndim(x):
        raise ValueError(
            f"dim must be a dimension of every leaf that is divided over the axis {axis_name!r}, got {dim} and a leaf "
            f"of shape {jnp.shape(x)}. Give it another by by_path."
        )
    return dim % jnp.ndim(x)


def whole_shape(x: Any, axis_name: AxisName, dim: int) -> tuple[int, ...]:
    """The shape of what an array is a part of."""
    at = place(x, axis_name, dim)
    return tuple(length * (size(spread(x, axis_name)) if i == at else 1) for i, length in enumerate(jnp.shape(x)))


def across(x: Any, dims: Sequence[int], axis_name: AxisName, dim: int) -> tuple[Hashable, ...]:
    """The names over which what is summed along dimensions of an array is summed too: it is divided along one of them.

    >>> import jax.numpy as jnp
    >>> across(jnp.ones((2, 3)), (1,), None, 0)
    ()
    """
    at = place(x, axis_name, dim)
    return () if at is None or at not in [i % jnp.ndim(x) for i in dims] else spread(x, axis_name)


def vary(values: Any, axis_name: AxisName) -> Any:
    """The same values, that differ over an axis by their types where these keep account of it."""
    known = tracked(axis_name)
    return jax.tree.map(lambda x: cast(x, known), values) if known else values


def cast(x: Any, over: frozenset[Any]) -> Any:
    """An array that differs over some axes by its type, at least."""
    missing = tuple(sorted(over - differing(x), key=str))
    return lax.pcast(x, missing, to="varying") if missing else x


def zeros(like: Any, x: jax.Array) -> jax.Array:
    """Zeros in the place of `x` and placed like it, which are the same on all members of an axis where `like` is."""
    if differing(x) <= differing(like):
        return jnp.zeros_like(x)
    return cast(jnp.zeros(jnp.shape(x), x.dtype), differing(like))


def mean(x: jax.Array, axis_name: AxisName, dtype: Any = None) -> jax.Array:
    """The mean over an axis in the dtype of `x`, summed in another one, by default float32 or wider."""
    return lax.pmean(x.astype(_wire(x.dtype, dtype)), axis_name).astype(x.dtype)


def psum(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """Return the sum over an axis; `x` itself where there is none."""
    return lax.psum(x, axis_name) if names(axis_name) else x


def _wire(own: Any, dtype: Any) -> Any:
    """The dtype in which numbers of a dtype are added, of those asked for one that has their parts."""
    if dtype is None:
        return own if jnp.finfo(own).bits >= 32 else jnp.float32
    return jnp.promote_types(dtype, jnp.complex64) if jnp.issubdtype(own, jnp.complexfloating) else dtype


def shares(weights: Any, axis_name: AxisName) -> jax.Array:
    """Return factors that turn a plain mean, over an array of weights and over an axis, into the weighted mean.

    They are `weights / mean(weights)`, and 0 where all weights are 0.
    """
    own = vary(jnp.asarray(weights, float), axis_name)
    total = psum(own.sum(), axis_name)
    return own * (own.size * size(axis_name)) / jnp.where(total == 0, 1.0, total)


def times(share: jax.Array, x: jax.Array) -> jax.Array:
    """Return `share * x` in float32 or wider, and 0 where the share is 0, even if `x` is not finite there."""
    wide = x.astype(_wire(x.dtype, None))
    return jnp.where(share == 0, 0, share.astype(jnp.finfo(wide.dtype).dtype) * wide)


def weighed(values: Any, weight: Any, axis_name: AxisName) -> Any:
    """Return the values in float32 or wider, scaled so that their plain mean over an axis is the weighted mean.

    A member of weight 0 counts as zeros, whatever its values are.
    """
    share = shares(required_scalar(weight), axis_name)
    return jax.tree.map(lambda x: x if x.dtype == jax.dtypes.float0 else times(share, x), values)


def total_weight(weight: Any, axis_name: AxisName) -> jax.Array:
    """Return the sum over an axis of the weights of its members."""
    return psum(vary(jnp.asarray(required_scalar(weight), float), axis_name), axis_name)


def required_scalar(weight: Any) -> Any:
    """Refuse a weight that is not one number of at least 0."""
    if isinstance(weight, str) or jnp.shape(weight):
        got = repr(weight) if isinstance(weight, str) else f"shape {jnp.shape(weight)}"
        raise ValueError(f"weight must be a scalar of each member, got {got}")
    require_nonnegative("weight", weight)
    return weight


def all_gather(x: jax.Array, axis_name: AxisName, axis: int = 0) -> jax.Array:
    """The parts of the members one after the other along an axis of theirs; the same on all, by its type too."""
    to = "invarying" if tracked(axis_name) else "varying"
    return lax.all_gather(x, axis_name, axis=axis, tiled=True, to=to)


def totals(numbers: Any, like: Any, axis_name: AxisName) -> Any:
    """Sums over an axis of scalars, one of each leaf of `like`; the scalar itself of one that is not divided over it.

    All are added in one collective for each dtype.
    """
    if axis_name is None:
        return numbers
    found, treedef = jax.tree.flatten(numbers)
    return treedef.unflatten(sums(found, [spread(leaf, axis_name) for leaf in jax.tree.leaves(like)]))


def somewhere(flags: Any, axis_name: AxisName) -> Any:
    """Of every flag of a tree whether it is set on any of the members that have parts of what it tells of."""
    if axis_name is None:
        return flags
    counts = jax.tree.map(lambda flag: flag.astype(jnp.int32), flags)
    return jax.tree.map(lambda count: count > 0, totals(counts, counts, axis_name))


def sums(xs: Sequence[jax.Array], over: Sequence[tuple[Hashable, ...]]) -> list[jax.Array]:
    """Sums of arrays, each over names of its own, in one collective for each dtype and the same names.

    What types say to differ over further names goes apart too.
    """
    groups: dict[Any, list[int]] = {}
    for i, (x, own) in enumerate(zip(xs, over, strict=True)):
        if own:
            groups.setdefault((own, x.dtype, differing(x)), []).append(i)
    summed = list(xs)
    for (own, *_), places in groups.items():
        together = lax.psum(jnp.concatenate([xs[i].ravel() for i in places]), own)
        ends = list(itertools.accumulate(xs[i].size for i in places))
        for i, start, end in zip(places, [0, *ends], ends, strict=False):
            summed[i] = together[start:end].reshape(xs[i].shape)
    return summed
