r"""Euclidean norms whose squares neither overflow nor underflow.

In float32, the square of 2^64 is infinite and the square of 2^-64 is flushed to 0. So squares are summed at three
scales: the numbers themselves, the numbers times $2^{-k}$, and the numbers times $2^{k}$. The sum that is in range
gives the root. The sums of each scale add up over leaves and over the devices of a mesh axis.

Source: Blue 1978, "A portable Fortran program to find the Euclidean norm of a vector"
(https://doi.org/10.1145/355769.355771). Differs from it: the numbers are not sorted by size.
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
from jax.typing import ArrayLike, DTypeLike

from gdjax import axes, xla
from gdjax.tree import Tree, abs_sq, as_dtype


class ScaledNorm(NamedTuple):
    """Euclidean norm as `root / scale`: the root is in range even if the norm is not."""

    root: jax.Array
    """The norm times the scale."""
    scale: jax.Array
    """A power of two."""

    def norm(self) -> jax.Array:
        """Return the norm as one number, infinite if it is beyond the range of the dtype."""
        return self.root * lax.stop_gradient(1 / self.scale)

    def finite_norm(self) -> jax.Array:
        """Return the norm, clipped to the largest finite number: it is finite if all elements are."""
        norm, largest = self.norm(), jnp.finfo(self.root.dtype).max
        return jnp.where(jnp.isfinite(self.root), jnp.minimum(norm, largest), norm)


def roots(scaled_norms: Tree) -> Tree:
    """Return the root of each scaled norm of a tree."""
    return jax.tree.map(lambda norm: norm.root, scaled_norms, is_leaf=lambda x: isinstance(x, ScaledNorm))


def multiply_in_turn(x: jax.Array, *factors: jax.Array | np.ndarray) -> jax.Array:
    """Multiply an array by several real numbers in turn, since their product may be out of range.

    >>> x = jnp.array([4e25])
    >>> print(multiply_in_turn(x, jnp.float32(2.0**-84), jnp.float32(2.0**84 / 4e25)))
    [1.]
    """
    for factor in factors:
        x = x.astype(jnp.promote_types(x.dtype, factor.dtype)) * factor
    return x


def clip_to_norm(x: jax.Array, norm: ScaledNorm, bound: ArrayLike) -> jax.Array:
    r"""Return $x \min(1, c / n)$ for a norm $n$ and its bound $c$; NaN if the norm is NaN.

    Two factors multiply $x$ in turn: their product underflows if, say, a norm of 1e39 is clipped to 1.

    >>> x = jnp.array([3e37, 4e37])
    >>> print(clip_to_norm(x, scaled_norms([[x]], [[()]])[0], 1.0))
    [0.6 0.8]
    """
    root, scale = norm
    bound = as_dtype(bound, root.dtype)
    is_within = root <= bound * scale
    factor = jnp.where(is_within, 1, bound / jnp.where(is_within, 1, root))
    return multiply_in_turn(x, jnp.where(is_within, 1, scale), factor)


def largest_squarable(dtype: DTypeLike, terms: float = 1) -> float:
    """Return the largest number such that `terms` times its square is finite, even after rounding.

    >>> print(f"{largest_squarable(jnp.float32):.2g}")
    1.8e+19
    """
    return 0.99 * math.sqrt(float(jnp.finfo(dtype).max) / terms)


class _Squares(NamedTuple):
    """Sums of squares at three scales."""

    plain: jax.Array
    large: jax.Array
    """The sum for the numbers divided by `_Thresholds.up`."""
    small: jax.Array
    """The sum for the numbers multiplied by `_Thresholds.up`."""


class _Plan(NamedTuple):
    """Plan of the sums, with one entry per array."""

    dims: tuple[tuple[int, ...], ...]
    """The dimensions to sum."""
    axis_names: tuple[tuple[Hashable, ...], ...]
    """The named axes to sum over, besides the dimensions."""
    group: tuple[int, ...]
    """The index of the norm that the array contributes to."""
    keepdims: bool

    @property
    def arrays_by_sum(self) -> dict[tuple[int, tuple[Hashable, ...]], list[int]]:
        """Map each (group, named axes) to its arrays: they share one sum."""
        arrays: dict[tuple[int, tuple[Hashable, ...]], list[int]] = {}
        for i, key in enumerate(zip(self.group, self.axis_names, strict=True)):
            arrays.setdefault(key, []).append(i)
        return arrays

    def with_batch_dimension(self) -> "_Plan":
        """Return the plan for arrays with one more leading dimension."""
        return self._replace(dims=tuple(tuple(i + 1 for i in dims) for dims in self.dims))


def scaled_norms(
    groups: Sequence[Sequence[jax.Array]],
    over: Sequence[Sequence[tuple[Hashable, ...]]],
    dims: Sequence[Sequence[int]] | None = None,
) -> list[ScaledNorm]:
    """Return the Euclidean norm of each group of arrays, taken as one vector; its derivative at 0 is 0.

    Args:
      groups: groups of arrays in float32 or wider, real or complex.
      over: for each array, the named axes to sum over, besides its dimensions.
      dims: for groups of one array each, the dimensions to sum, kept with size 1. The default is all dimensions.

    >>> print(scaled_norms([[jnp.array([3e-30, 4e-30])]], [[()]])[0].norm())
    5e-30
    """
    promoted = [_promote_precision(xs) for xs in groups]
    arrays = [x for xs in promoted for x in xs]
    along = (
        [tuple(range(x.ndim)) for x in arrays]
        if dims is None
        else [_nonnegative_dims(x, array_dims) for x, array_dims in zip(arrays, dims, strict=True)]
    )
    plan = _Plan(
        tuple(along),
        tuple(tuple(names) for group_axes in over for names in group_axes),
        tuple(i for i, xs in enumerate(promoted) for _ in xs),
        dims is not None,
    )
    norms = iter(_scaled_norms(plan, arrays) if arrays else ())
    return [next(norms) if xs else ScaledNorm(jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)) for xs in groups]


def scaled_norms_of_results(xs: Sequence[jax.Array], recompute: Callable[[], Sequence[jax.Array]]) -> list[ScaledNorm]:
    """Return the Euclidean lengths of arrays that XLA need not write to memory.

    Args:
      xs: results of a computation, all varying over the same mesh axes.
      recompute: returns them again. It runs in the branch that sums at another scale: an operand of a branch would be
        written to memory.
    """
    xs = [_promote_precision([x])[0] for x in xs]
    dims = tuple(tuple(range(x.ndim)) for x in xs)
    plan = _Plan(dims, ((),) * len(xs), tuple(range(len(xs))), keepdims=False)
    squares = lax.platform_dependent(
        cpu=lambda: _squares_of_results(plan, xs, recompute), default=lambda: _squares_at_all_scales(plan, xs)
    )
    return [_norm_in_range(of, safe_sqrt) for of in squares]


def _squares_of_results(
    plan: _Plan, xs: Sequence[jax.Array], recompute: Callable[[], Sequence[jax.Array]]
) -> list[_Squares]:
    """Take the plain sums in one pass, and sum all arrays at another scale if one of them is not safe."""
    plain = _plain_sums(xs)

    def plain_alone() -> list[_Squares]:
        return [_Squares(total, *[jnp.zeros_like(total)] * 2) for total in plain]

    def rescale() -> list[_Squares]:
        again = [_promote_precision([x])[0] for x in recompute()]
        return [_rescaled_squares(plan, [i], total, again) for i, total in enumerate(plain)]

    return lax.cond(functools.reduce(jnp.logical_and, map(_is_safe, plain)), plain_alone, rescale)


def _plain_sums(xs: Sequence[jax.Array]) -> list[jax.Array]:
    """Return the sums of squares; of two halves, as updates and parameters are, in pairs."""
    half = len(xs) // 2
    if len(xs) != 2 * half:
        return [xla.sum_result(abs_sq(x)) for x in xs]
    pairs = [xla.sum_results(abs_sq(x), abs_sq(y)) for x, y in zip(xs[:half], xs[half:], strict=True)]
    return [total for totals in zip(*pairs, strict=True) for total in totals]


def safe_sqrt(square: jax.Array) -> jax.Array:
    """Return `sqrt(square)`, with value 0 and derivative 0 at 0.

    Use a sum only through this root, which XLA computes once. If the sum itself is compared, XLA computes the sum of a
    few hundred leaves anew for each leaf that the norm scales.
    """
    tiny = jnp.finfo(square.dtype).tiny
    return jnp.sqrt(square + tiny) - tiny**0.5


def _promote_precision(xs: Sequence[jax.Array]) -> list[jax.Array]:
    """Cast arrays to the widest of their precisions."""
    widest = max((jnp.finfo(x.dtype).dtype for x in xs), key=lambda dtype: dtype.itemsize, default=np.dtype("float32"))
    return [x.astype(jnp.promote_types(widest, jnp.complex64) if jnp.iscomplexobj(x) else widest) for x in xs]


def _nonnegative_dims(x: jax.Array, dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(i % x.ndim for i in dims))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _scaled_norms(plan: _Plan, xs: list[jax.Array]) -> list[ScaledNorm]:
    """Return the norms of the groups that have arrays, in order."""
    local = _local_squares(plan, xs)
    names = [axis_names for _, axis_names in plan.arrays_by_sum for _ in local[0]]
    totals = iter(axes.psum_arrays([x for squares in local for x in squares], names))
    reduced = [_Squares(*(next(totals) for _ in squares)) for squares in local]
    return [_norm_in_range(squares) for squares in _add_by_group(plan, reduced)]


@functools.partial(_scaled_norms.defjvp, symbolic_zeros=True)
def _scaled_norms_jvp(plan: _Plan, primals: Any, tangents: Any) -> tuple[list[ScaledNorm], list[ScaledNorm]]:
    r"""Return the norms, and $\mathrm{d} \lVert x \rVert = \Re \langle x, \mathrm{d}x \rangle / \lVert x \rVert$."""
    (xs,), (xs_dot,) = primals, tangents
    norms = _scaled_norms(plan, xs)
    norm_of_group = dict(zip(dict.fromkeys(plan.group), norms, strict=True))
    moving = [i for i, x_dot in enumerate(xs_dot) if not isinstance(x_dot, SymbolicZero)]
    terms = [_root_tangent(plan, i, norm_of_group[plan.group[i]], xs[i], xs_dot[i]) for i in moving]
    by_group: dict[int, list[jax.Array]] = {group: [] for group in norm_of_group}
    for i, term in zip(moving, axes.psum_arrays(terms, [plan.axis_names[i] for i in moving]), strict=True):
        by_group[plan.group[i]].append(term)
    zeros = jax.tree.map(lambda x: axes.zeros_varying_like(x, x), norms)
    return norms, [
        zero._replace(root=_add(terms)) if terms else zero for zero, terms in zip(zeros, by_group.values(), strict=True)
    ]


def _root_tangent(plan: _Plan, i: int, norm: ScaledNorm, x: jax.Array, x_dot: jax.Array) -> jax.Array:
    """Return one array's contribution to the tangent of the root."""
    unit = x * (norm.scale / jnp.where(norm.root > 0, norm.root, jnp.inf))
    inner = unit.real * x_dot.real + unit.imag * x_dot.imag if jnp.iscomplexobj(x) else unit * x_dot
    return norm.scale * jnp.sum(inner, plan.dims[i], keepdims=plan.keepdims)


def _add_by_group(plan: _Plan, sums: Sequence[_Squares]) -> list[_Squares]:
    """Add up the sums of each group."""
    by_group: dict[int, list[_Squares]] = {}
    for (group, _), squares in zip(plan.arrays_by_sum, sums, strict=True):
        by_group.setdefault(group, []).append(squares)
    return [_add(squares) for squares in by_group.values()]


def _norm_in_range(squares: _Squares, sqrt: Callable[[jax.Array], jax.Array] = jnp.sqrt) -> ScaledNorm:
    """Return the root of the sum that is in range.

    The comparison takes the plain root, not its sum: XLA computes a root once, but a compared sum anew for each use.
    """
    thresholds, root = _Thresholds.of(squares.plain.dtype), sqrt(squares.plain)
    is_large, is_small = root > thresholds.large, root < thresholds.small
    scales_up = is_small & (squares.small > 0)  # 0 gets scale 1, so that products with the scale have derivative 1
    scale = jnp.where(is_large, 1 / thresholds.up, jnp.where(scales_up, thresholds.up, 1.0)).astype(root.dtype)
    small_or_plain = jnp.where(is_small, sqrt(squares.small), root)
    return ScaledNorm(jnp.where(is_large, sqrt(squares.large), small_or_plain), scale)


class _Thresholds(NamedTuple):
    """Thresholds at which each scale takes over, as powers of two."""

    up: float
    """The scale of small numbers; large numbers use its inverse."""
    small: float
    """A root below this comes from the small scale."""
    large: float
    """A root above this comes from the large scale."""
    safe: tuple[float, float]
    """A local sum in this interval needs no other scale on its device, whatever the other devices add."""

    @classmethod
    def of(cls, dtype: DTypeLike) -> "_Thresholds":
        """Return the thresholds of a dtype: 2^84, 2^-32, 2^63 and (2^-60, 2^90) for float32."""
        half = int(jnp.finfo(dtype).maxexp) // 2
        return cls(
            2.0 ** (half + 20), 2.0 ** -(half // 2), 2.0 ** (half - 1), (2.0 ** (4 - half), 2.0 ** (2 * half - 38))
        )


@functools.partial(jax.jit, static_argnums=0)
def _local_squares(plan: _Plan, xs: list[jax.Array]) -> list[_Squares]:
    """Return the sums of squares on this device."""
    of_batch = functools.partial(_local_squares, plan.with_batch_dimension())
    return xla.with_one_branch(_squares_of_platform, of_batch, plan, xs)


def _squares_of_platform(plan: _Plan, xs: list[jax.Array]) -> list[_Squares]:
    on_cpu, elsewhere = (functools.partial(f, plan) for f in (_squares_at_needed_scales, _squares_at_all_scales))
    return lax.platform_dependent(xs, cpu=on_cpu, default=elsewhere)


def _squares_at_all_scales(plan: _Plan, xs: list[jax.Array]) -> list[_Squares]:
    """Take three sums in one pass: on GPU and TPU, where bandwidth is the limit, they cost as much as one."""

    def three_sums(i: int, x: jax.Array) -> _Squares:
        up = _Thresholds.of(x.dtype).up
        squares = abs_sq(x), _square_scaled(x, 1 / up), _square_scaled(x, up)
        return _Squares(*(_sum(plan, i, square) for square in squares))

    sums = [three_sums(i, x) for i, x in enumerate(xs)]
    return [_add(sums[i] for i in arrays) for arrays in plan.arrays_by_sum.values()]


def _square_scaled(x: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Return the squares of an array times a power of two.

    Products are clipped from below at a number whose square is 0. Otherwise XLA may rewrite the square of a product
    as a product of squares, one of them infinite and the other 0.
    """
    floor = 1 / _Thresholds.of(x.dtype).up ** 1.5
    components = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    return _add(jnp.square(jnp.maximum(jnp.abs(component * scale), floor)) for component in components)


def _sum(plan: _Plan, i: int, squares: jax.Array) -> jax.Array:
    return jnp.sum(squares, plan.dims[i], keepdims=plan.keepdims)


def _add(values: Iterable[Any]) -> Any:
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), values)


def _squares_at_needed_scales(plan: _Plan, xs: list[jax.Array]) -> list[_Squares]:
    """Take the plain sums, and sum at another scale only if one of them is not safe, which almost never happens.

    XLA:CPU takes one sum at full speed (7 ms for 33.5M float32 numbers), and three at a quarter of it (30 ms).
    """
    arrays = list(plan.arrays_by_sum.values())
    plain = [_add(_sum(plan, i, abs_sq(xs[i])) for i in indices) for indices in arrays]
    is_safe = [_is_safe(total) for total in plain]

    def plain_alone(sums: Sequence[int]) -> list[_Squares]:
        return [_Squares(plain[i], *[jnp.zeros_like(plain[i])] * 2) for i in sums]

    def rescale(sums: Sequence[int]) -> list[_Squares]:
        return [_rescaled_squares(plan, arrays[i], plain[i], xs) for i in sums]

    def check_each(sums: Sequence[int]) -> list[_Squares]:
        return [squares for i in sums for squares in check([i], rescale)]

    def check(sums: Sequence[int], otherwise: Callable[[Sequence[int]], list[_Squares]]) -> list[_Squares]:
        all_safe = functools.reduce(jnp.logical_and, [is_safe[i] for i in sums])
        return lax.cond(all_safe, functools.partial(plain_alone, sums), functools.partial(otherwise, sums))

    by_sum: dict[int, _Squares] = {}
    for sums in _group_by_varying_axes(plain):  # in one branch, all results would vary over the axes of any
        by_sum |= dict(zip(sums, check(sums, check_each if len(sums) > 1 else rescale), strict=True))
    return [by_sum[i] for i in range(len(plain))]


def _group_by_varying_axes(sums: Sequence[jax.Array]) -> list[list[int]]:
    """Group the indices of sums by the mesh axes that their types vary over."""
    groups: dict[frozenset[Hashable], list[int]] = {}
    for i, x in enumerate(sums):
        groups.setdefault(axes.varying_axes(x), []).append(i)
    return list(groups.values())


def _is_safe(total: jax.Array) -> jax.Array:
    """Return whether the plain sum suffices."""
    least, most = _Thresholds.of(total.dtype).safe
    return jnp.all((total > least) & (total < most))


def _rescaled_squares(plan: _Plan, arrays: Sequence[int], plain: jax.Array, xs: list[jax.Array]) -> _Squares:
    """Sum again at the scale that the size of the plain sum suggests."""
    up, is_large = _Thresholds.of(plain.dtype).up, plain > 1
    scale = jnp.where(is_large, 1 / up, up).astype(plain.dtype)
    total = _add(_sum_squares_by_row(xs[i], scale, plan.dims[i], plan.keepdims) for i in arrays)
    return _Squares(plain, jnp.where(is_large, total, 0), jnp.where(is_large, 0, total))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _sum_squares_by_row(x: jax.Array, scale: jax.Array, dims: tuple[int, ...], keepdims: bool) -> jax.Array:
    """Return the sum of squares of an array times a power of two, without a copy of the array."""
    square = _square_scaled(x, scale if keepdims else jnp.expand_dims(scale, dims))
    return xla.sum_carrying_error(square, dims, keepdims) if dims else square
