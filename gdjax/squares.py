r"""Euclidean lengths whose squares neither overflow nor vanish.

In float32 the square of 2^64 is infinite, and that of 2^-64 is flushed to 0. So squares are summed at three scales: of
the numbers themselves, of the numbers times $2^{-k}$, and times $2^{k}$. The sum that is in range gives the root. Sums
of each scale add over leaves and over the devices of a mesh axis. Source: Blue 1978, "A portable Fortran program to
find the Euclidean norm of a vector" (https://doi.org/10.1145/355769.355771), without its sorting of the numbers by
size.
"""

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from gdjax import axes
from gdjax.tree import abs_sq, as_dtype


class ScaledNorm(NamedTuple):
    """A Euclidean length as `root / scale`: the root is in range even where the length is not."""

    root: jax.Array
    scale: jax.Array
    """A power of two."""

    def norm(self) -> jax.Array:
        """Return the length as one number, infinite where the dtype cannot hold it."""
        return self.root * lax.stop_gradient(1 / self.scale)

    def bounded(self) -> jax.Array:
        """Return the length, or the largest number of its dtype in its place: it is finite where the numbers are."""
        norm, largest = self.norm(), jnp.finfo(self.root.dtype).max
        return jnp.where(jnp.isfinite(self.root), jnp.minimum(norm, largest), norm)


def multiply_in_turn(x: jax.Array, *factors: jax.Array | np.ndarray) -> jax.Array:
    """Multiply an array by several real numbers in turn: their product alone may be out of range.

    >>> x = jnp.array([4e25])
    >>> print(multiply_in_turn(x, jnp.float32(2.0**-84), jnp.float32(2.0**84 / 4e25)))
    [1.]
    """
    for factor in factors:
        x = x.astype(jnp.promote_types(x.dtype, factor.dtype)) * factor
    return x


def clip_to_norm(x: jax.Array, length: ScaledNorm, bound: Any) -> jax.Array:
    r"""Return $x \min(1, c / \ell)$ for a length and a bound on it; NaN where the length is NaN.

    It multiplies by two factors: their product would vanish where a length of 1e39 is brought down to 1.

    >>> x = jnp.array([3e37, 4e37])
    >>> print(clip_to_norm(x, scaled_norms([[x]], [[()]])[0], 1.0))
    [0.6 0.8]
    """
    root, scale = length
    bound = as_dtype(bound, root.dtype)
    short = root <= bound * scale
    factor = jnp.where(short, 1, bound / jnp.where(short, 1, root))
    return multiply_in_turn(x, jnp.where(short, 1, scale), factor)


def largest_squarable(dtype: Any, terms: float = 1) -> float:
    """Return the largest number for which the sum of `terms` of its squares is finite, even after rounding.

    >>> print(f"{largest_squarable(jnp.float32):.2g}")
    1.8e+19
    """
    return 0.99 * math.sqrt(float(jnp.finfo(dtype).max) / terms)


class _Squares(NamedTuple):
    """Sums of squares at three scales."""

    plain: jax.Array
    large: jax.Array
    """The sum for the numbers over `up`."""
    small: jax.Array
    """The sum for the numbers times `up`."""


class _Plan(NamedTuple):
    """A plan of the sums, with one entry for each array."""

    dims: tuple[tuple[int, ...], ...]
    """The dimensions that are summed."""
    over: tuple[tuple[Hashable, ...], ...]
    """The axes over which the sums are added, too."""
    group: tuple[int, ...]
    """The length that the array is a part of."""
    keepdims: bool

    @property
    def parts(self) -> dict[tuple[int, tuple[Hashable, ...]], list[int]]:
        """Return the arrays behind each sum, by group and axes: arrays that share both share a sum."""
        found: dict[Any, list[int]] = {}
        for i, part in enumerate(zip(self.group, self.over, strict=True)):
            found.setdefault(part, []).append(i)
        return found

    def batched(self) -> "_Plan":
        """Return the plan for arrays with one more dimension, the first."""
        return self._replace(dims=tuple(tuple(i + 1 for i in dims) for dims in self.dims))


def scaled_norms(
    groups: Sequence[Sequence[jax.Array]],
    over: Sequence[Sequence[tuple[Hashable, ...]]],
    dims: Sequence[Sequence[int]] | None = None,
) -> list[ScaledNorm]:
    """Return the Euclidean length of each group of arrays as one vector; its derivative at 0 is 0.

    Args:
      groups: arrays in float32 or wider, real or complex.
      over: for each array the axis names over which its sum is added, too.
      dims: for groups of one array each, the dimensions to sum over; they are kept with length 1. By default all.

    >>> print(scaled_norms([[jnp.array([3e-30, 4e-30])]], [[()]])[0].norm())
    5e-30
    """
    wide = [_alike(xs) for xs in groups]
    arrays = [x for xs in wide for x in xs]
    along = (
        [tuple(range(x.ndim)) for x in arrays]
        if dims is None
        else [_places(*of) for of in zip(arrays, dims, strict=True)]
    )
    plan = _Plan(
        tuple(along),
        tuple(tuple(names) for of in over for names in of),
        tuple(i for i, xs in enumerate(wide) for _ in xs),
        dims is not None,
    )
    found = iter(_lengths(plan, arrays) if arrays else ())
    return [next(found) if xs else ScaledNorm(jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)) for xs in groups]


def _alike(xs: Sequence[jax.Array]) -> list[jax.Array]:
    """Give arrays the widest of their precisions."""
    widest = max((jnp.finfo(x.dtype).dtype for x in xs), key=lambda dtype: dtype.itemsize, default=np.dtype("float32"))
    return [x.astype(jnp.promote_types(widest, jnp.complex64) if jnp.iscomplexobj(x) else widest) for x in xs]


def _places(x: jax.Array, dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(i % x.ndim for i in dims))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _lengths(plan: _Plan, xs: list[jax.Array]) -> list[ScaledNorm]:
    """Return the lengths of the groups that have arrays, in order."""
    sums = _local(plan, xs)
    names = [over for _, over in plan.parts for _ in sums[0]]
    added = iter(axes.psum_arrays([x for of in sums for x in of], names))
    return [_length(of) for of in _by_group(plan, [_Squares(*(next(added) for _ in of)) for of in sums])]


@functools.partial(_lengths.defjvp, symbolic_zeros=True)
def _lengths_jvp(plan: _Plan, primals: Any, tangents: Any) -> tuple[list[ScaledNorm], list[ScaledNorm]]:
    r"""$\mathrm{d} \lVert x \rVert = \Re \langle x, \mathrm{d}x \rangle / \lVert x \rVert$, in range as the root is."""
    (xs,), (moves,) = primals, tangents
    found = _lengths(plan, xs)
    at = dict(zip(dict.fromkeys(plan.group), found, strict=True))
    given = [i for i, dx in enumerate(moves) if not isinstance(dx, SymbolicZero)]
    terms = [_moved(plan, i, at[plan.group[i]], xs[i], moves[i]) for i in given]
    mine: dict[int, list[jax.Array]] = {group: [] for group in at}
    for i, term in zip(given, axes.psum_arrays(terms, [plan.over[i] for i in given]), strict=True):
        mine[plan.group[i]].append(term)
    still = jax.tree.map(lambda x: axes.zeros_varying_like(x, x), found)
    return found, [
        zero._replace(root=_added(of)) if of else zero for zero, of in zip(still, mine.values(), strict=True)
    ]


def _moved(plan: _Plan, i: int, length: ScaledNorm, x: jax.Array, dx: jax.Array) -> jax.Array:
    """Return the part of the root's tangent that comes from one array."""
    unit = x * (length.scale / jnp.where(length.root > 0, length.root, jnp.inf))
    inner = unit.real * dx.real + unit.imag * dx.imag if jnp.iscomplexobj(x) else unit * dx
    return length.scale * jnp.sum(inner, plan.dims[i], keepdims=plan.keepdims)


def _by_group(plan: _Plan, sums: Sequence[_Squares]) -> list[_Squares]:
    """Add up the sums of each group."""
    found: dict[int, list[_Squares]] = {}
    for (group, _), of in zip(plan.parts, sums, strict=True):
        found.setdefault(group, []).append(of)
    return [_added(of) for of in found.values()]


def _length(of: _Squares) -> ScaledNorm:
    """Return the root of the sum that is in range.

    The plain root is compared, not its sum: XLA computes a root once, but a compared sum again for each use.
    """
    edges, root = _Edges.of(of.plain.dtype), jnp.sqrt(of.plain)
    above, below = root > edges.large, root < edges.small
    some = below & (of.small > 0)  # nothing has the scale 1: what is multiplied by it has a derivative of 1 there
    scale = jnp.where(above, 1 / edges.up, jnp.where(some, edges.up, 1.0)).astype(root.dtype)
    return ScaledNorm(jnp.where(above, jnp.sqrt(of.large), jnp.where(below, jnp.sqrt(of.small), root)), scale)


class _Edges(NamedTuple):
    """Bounds at which each scale takes over, as powers of two."""

    up: float
    """The scale of small numbers; that of large ones is its inverse."""
    small: float
    """A root below it is taken from the small scale."""
    large: float
    """A root above it is taken from the large scale."""
    safe: tuple[float, float]
    """A sum between these, on one device, decides alone: whatever others add, its other scales do not matter."""

    @classmethod
    def of(cls, dtype: Any) -> "_Edges":
        """Return those of a dtype; of float32 2^84, 2^-32, 2^63 and (2^-60, 2^90)."""
        half = int(jnp.finfo(dtype).maxexp) // 2
        return cls(
            2.0 ** (half + 20), 2.0 ** -(half // 2), 2.0 ** (half - 1), (2.0 ** (4 - half), 2.0 ** (2 * half - 38))
        )


@functools.partial(jax.jit, static_argnums=0)
def _local(plan: _Plan, xs: list[jax.Array]) -> list[_Squares]:
    """Sum each part on this device, with one decision under `vmap`: a plain `cond` would compute both branches."""

    @jax.custom_batching.custom_vmap
    def local(xs: list[jax.Array]) -> list[_Squares]:
        checked, plainly = functools.partial(_checked, plan), functools.partial(_at_all_scales, plan)
        return lax.platform_dependent(xs, cpu=checked, default=plainly)

    @local.def_vmap
    def batched(axis_size: int, in_batched: Any, xs: list[jax.Array]) -> tuple[list[_Squares], Any]:
        (batched,) = in_batched
        all_ = [x if has else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, has in zip(xs, batched, strict=True)]
        found = _local(plan.batched(), all_)
        return found, jax.tree.map(lambda _: True, found)

    return local(xs)


def _at_all_scales(plan: _Plan, xs: list[jax.Array]) -> list[_Squares]:
    """Take three sums in one pass: where bandwidth is the limit, as on GPU and TPU, they cost as much as one."""

    def three(i: int, x: jax.Array) -> _Squares:
        up = _Edges.of(x.dtype).up
        return _Squares(*(_sum(plan, i, square) for square in (abs_sq(x), _square(x, 1 / up), _square(x, up))))

    sums = [three(i, x) for i, x in enumerate(xs)]
    return [_added(sums[i] for i in of) for of in plan.parts.values()]


def _square(x: jax.Array, by: jax.Array | float) -> jax.Array:
    """Return the squares of an array times a power of two.

    A floor whose square is 0 stands between the product and the square. Without it XLA may turn the square of a product
    into a product of squares, one infinite and the other 0.
    """
    floor = 1 / _Edges.of(x.dtype).up ** 1.5
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    return _added(jnp.square(jnp.maximum(jnp.abs(part * by), floor)) for part in parts)


def _sum(plan: _Plan, i: int, squares: jax.Array) -> jax.Array:
    return jnp.sum(squares, plan.dims[i], keepdims=plan.keepdims)


def _added(values: Iterable[Any]) -> Any:
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), values)


def _checked(plan: _Plan, xs: list[jax.Array]) -> list[_Squares]:
    """Take the plain sums, and another scale only where one of them is not safe, which almost never happens.

    XLA:CPU takes one sum at full speed (7 ms for 33.5M float32 numbers), three at a quarter of it (30 ms).
    """
    arrays = list(plan.parts.values())
    plain = [_added(_sum(plan, i, abs_sq(xs[i])) for i in of) for of in arrays]
    safe = [_is_safe(total) for total in plain]

    def settled(of: Sequence[int]) -> list[_Squares]:
        return [_Squares(plain[i], *[jnp.zeros_like(plain[i])] * 2) for i in of]

    def rescaled(of: Sequence[int]) -> list[_Squares]:
        return [_rescaled(plan, arrays[i], plain[i], xs) for i in of]

    def each(of: Sequence[int]) -> list[_Squares]:
        return [found for i in of for found in checked([i], rescaled)]

    def checked(of: Sequence[int], otherwise: Callable[[Sequence[int]], list[_Squares]]) -> list[_Squares]:
        everything = functools.reduce(jnp.logical_and, [safe[i] for i in of])
        return lax.cond(everything, functools.partial(settled, of), functools.partial(otherwise, of))

    found: dict[int, _Squares] = {}
    for of in _alike_by_type(plain):  # one branch for each, or all results would vary as the most varying one does
        found |= dict(zip(of, checked(of, each if len(of) > 1 else rescaled), strict=True))
    return [found[i] for i in range(len(plain))]


def _alike_by_type(sums: Sequence[jax.Array]) -> list[list[int]]:
    """Group the places of sums that vary over the same axes by their types."""
    found: dict[Any, list[int]] = {}
    for i, x in enumerate(sums):
        found.setdefault(axes.varying_axes(x), []).append(i)
    return list(found.values())


def _is_safe(total: jax.Array) -> jax.Array:
    """Return whether the plain sum decides alone."""
    least, most = _Edges.of(total.dtype).safe
    return jnp.all((total > least) & (total < most))


def _rescaled(plan: _Plan, of: Sequence[int], plain: jax.Array, xs: list[jax.Array]) -> _Squares:
    """Return the sums where the plain one is not safe: it tells at which scale to sum again."""
    up, above = _Edges.of(plain.dtype).up, plain > 1
    by = jnp.where(above, 1 / up, up).astype(plain.dtype)
    again = _added(_row_by_row(xs[i], by, plan.dims[i], plan.keepdims) for i in of)
    return _Squares(plain, jnp.where(above, again, 0), jnp.where(above, 0, again))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _row_by_row(x: jax.Array, by: jax.Array, dims: tuple[int, ...], keepdims: bool) -> jax.Array:
    """Return the sum of squares of an array times a power of two, without a copy of the array.

    XLA:CPU writes the operand of a plain sum to memory, but fuses it into a sum that carries its rounding error
    (Knuth's two-sum). That sum adds the numbers of a row one by one, so it needs the error too.
    """
    square = _square(x, by if keepdims else jnp.expand_dims(by, dims))
    if dims:
        zero = np.zeros((), square.dtype)
        total, lost = lax.reduce((square, jnp.zeros_like(square)), (zero, zero), _two_sum, dims[-1:])
        square = jnp.expand_dims(jnp.where(jnp.isfinite(total), total + lost, total), dims[-1])
    return jnp.sum(square, dims, keepdims=keepdims)


def _two_sum(a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
    """Add two sums and their rounding errors."""
    total = a[0] + b[0]
    back = total - a[0]
    return total, a[1] + b[1] + ((a[0] - (total - back)) + (b[0] - back))
