"""Named axes, of `vmap`, `pmap` or `shard_map`: who their members are, and what differs among them."""

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

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
    return frozenset(name for name in names(axis_name) if name in differing(_index(name)))


def _index(name: Hashable) -> jax.Array:
    try:
        return lax.axis_index(name)
    except NameError:
        raise UnboundError(
            f"the axis {name!r} must be there, got no axis of this name. Call init and update within "
            f"vmap(..., axis_name={name!r}), pmap or shard_map."
        ) from None


def is_divided(x: Any, axis_name: AxisName) -> bool:
    """Whether the members of an axis have parts of an array, and not each the same; where no type tells, they have."""
    return bool(names(axis_name)) and tracked(axis_name) <= differing(x)


def spread(x: Any, axis_name: AxisName) -> tuple[Hashable, ...]:
    """The names of an axis over which an array is divided; all those that no type tells of are among them."""
    known = tracked(axis_name)
    return tuple(name for name in names(axis_name) if name not in known or name in differing(x))


def size(axis_name: AxisName) -> int:
    """How many members an axis has; 1 where there is none."""
    return lax.axis_size(names(axis_name)) if names(axis_name) else 1


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
    wire = dtype or (x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32)
    return lax.pmean(x.astype(wire), axis_name).astype(x.dtype)


def share(weight: Any, axis_name: AxisName) -> jax.Array:
    """What a member's numbers are multiplied by, such that their plain mean is the one weighted by these weights."""
    own = vary(jnp.asarray(weight, float), axis_name)
    total = lax.psum(own, axis_name)
    return jnp.where(own > 0, own * lax.axis_size(axis_name) / jnp.where(total > 0, total, 1.0), 0.0)


def weigh(x: jax.Array, share: jax.Array) -> jax.Array:
    """A member's numbers times its share; zeros without one, whatever they were."""
    return jnp.where(share > 0, share.astype(jnp.finfo(x.dtype).dtype) * x, jnp.zeros((), x.dtype))


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
    """Sums of arrays, each over names of its own, in one collective for each dtype and the same names."""
    groups: dict[Any, list[int]] = {}
    for i, (x, own) in enumerate(zip(xs, over, strict=True)):
        if own:
            groups.setdefault((own, x.dtype), []).append(i)
    summed = list(xs)
    for (own, _), places in groups.items():
        together = lax.psum(jnp.concatenate([xs[i].ravel() for i in places]), own)
        ends = list(itertools.accumulate(xs[i].size for i in places))
        for i, start, end in zip(places, [0, *ends], ends, strict=False):
            summed[i] = together[start:end].reshape(xs[i].shape)
    return summed
