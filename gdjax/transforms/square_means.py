"""Means of squares along dimensions, for factored second moments."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gdjax import axes, norms, xla
from gdjax.specs import explicit_mesh
from gdjax.transforms.moments import safe_square


def mean_squares_along(
    xs: Sequence[jax.Array], dims: Sequence[tuple[int, ...]], over: Sequence[tuple[Hashable, ...]]
) -> list[jax.Array]:
    """Return the mean of `safe_square` of each array along some of its dimensions, and over named axes.

    On a CPU, XLA fuses the plain square of an input into its sum, but not a clipped one. So arrays whose plain sums are
    finite take these: Adafactor has no temporaries instead of one tree, and takes 0.6 of the time. An array may come
    twice, for its rows and its columns.
    """
    sizes, divisor = norms.mean_sizes(xs, dims, over)
    plan = _Plan(tuple(dims), divisor, _repeats(xs))
    one_branch_serves = not explicit_mesh(xs) and len({axes.varying_axes(x) for x in xs}) == 1
    sums = (_square_sums if one_branch_serves else _clipped_sums)(plan, list(xs))
    return [total * (divisor / size) for total, size in zip(axes.psum_arrays(sums, over), sizes, strict=True)]


class _Plan(NamedTuple):
    """Plan of the sums, with one entry per array."""

    dims: tuple[tuple[int, ...], ...]
    """The dimensions to sum."""
    divisor: float
    """A power of two; each square is divided by it, so that no sum is inf."""
    repeats: tuple[bool, ...]
    """True for an array that has come before."""

    def with_batch_dimension(self) -> "_Plan":
        """Return the plan for arrays with one more leading dimension."""
        return self._replace(dims=tuple(tuple(dim + 1 for dim in dims) for dims in self.dims))


def _repeats(xs: Sequence[jax.Array]) -> tuple[bool, ...]:
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(x), i) != i for i, x in enumerate(xs))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _square_sums(plan: _Plan, xs: list[jax.Array]) -> list[jax.Array]:
    """Return the sum of squares of each array on this device, divided by the divisor."""
    of_batch = functools.partial(_square_sums, plan.with_batch_dimension())
    return xla.with_one_branch(_sums_of_platform, of_batch, plan, xs)


@_square_sums.defjvp
def _square_sums_jvp(plan: _Plan, primals: Any, tangents: Any) -> tuple[list[jax.Array], list[jax.Array]]:
    """Differentiate the clipped sums."""
    (xs,) = primals
    return _square_sums(plan, xs), jax.jvp(functools.partial(_clipped_sums, plan), primals, tangents)[1]


def _sums_of_platform(plan: _Plan, xs: list[jax.Array]) -> list[jax.Array]:
    on_cpu, elsewhere = (functools.partial(f, plan) for f in (_sums_where_finite, _clipped_sums))
    return lax.platform_dependent(xs, cpu=on_cpu, default=elsewhere)


def _sums_where_finite(plan: _Plan, xs: list[jax.Array]) -> list[jax.Array]:
    """Return plain sums, or the clipped sums if one of them is not finite."""
    if any(map(jnp.iscomplexobj, xs)):
        return _clipped_sums(plan, xs)
    # XLA would compute equal squares of one array once, and write them to memory
    signs = [-1.0 if repeats else 1.0 for repeats in plan.repeats]
    plain = [
        jnp.sum(-x * x if sign < 0 else x * x, dims) / (sign * plan.divisor)
        for x, dims, sign in zip(xs, plan.dims, signs, strict=True)
    ]
    finite = [jnp.isfinite(jnp.sum(total)) for total, repeats in zip(plain, plan.repeats, strict=True) if not repeats]
    clipped = functools.partial(_clipped_sums, plan, sum_along=xla.sum_carrying_error)
    return lax.cond(functools.reduce(jnp.logical_and, finite, True), lambda xs: plain, clipped, xs)


def _clipped_sums(plan: _Plan, xs: list[jax.Array], sum_along: Callable[..., jax.Array] = jnp.sum) -> list[jax.Array]:
    """Return the sums of clipped squares."""
    return [sum_along(safe_square(x) / plan.divisor, dims) for x, dims in zip(xs, plan.dims, strict=True)]
