"""Code that exists for the sake of JAX's tracer and XLA's compiler. Each function states the measurement behind it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

T = TypeVar("T")


def weighted_sum(a: float | jax.Array, x: jax.Array, b: float | jax.Array, y: jax.Array) -> jax.Array:
    """Return `a * x + b * y` for two numbers and two arrays.

    JAX traces an operator between a Python number and an array in 115 microseconds, and `lax.mul` in 36. AdamW of 100
    leaves is traced in 0.85 of the time with it, as fast as Optax's.
    """
    if x.dtype != y.dtype or jnp.iscomplexobj(x) or not (isinstance(a, float) and isinstance(b, float)):
        return a * x + b * y
    number = x.dtype.type
    return lax.add(lax.mul(number(a), x), lax.mul(number(b), y))


def mark(tree: T, numbers: Any) -> T:
    """Return the same arrays, and NaN where a number is NaN, so that XLA takes them for other arrays.

    An update that is read twice is written to memory, a tree of temporaries, if it is costly to compute. Computed again
    from marked arrays, it is not merged with the first and is fused with what reads it: LAMB takes 0.8 of the time.

    Args:
      tree: a tree of arrays, such as a state.
      numbers: one scalar for the whole tree, or a tree of scalars. In the second case each part of the tree with the
        structure of `numbers` is marked leaf by leaf, and the rest stays as it is.
    """
    structure = jax.tree.structure(numbers)
    if jax.tree_util.treedef_is_leaf(structure):
        return jax.tree.map(lambda x: _mark(x, numbers), tree)
    is_like = lambda node: jax.tree.structure(node) == structure  # noqa: E731
    marked = lambda node: jax.tree.map(_mark, node, numbers) if is_like(node) else node  # noqa: E731
    return jax.tree.map(marked, tree, is_leaf=is_like)


def _mark(x: jax.Array, number: jax.Array) -> jax.Array:
    return jnp.where(number == number, x, number.astype(x.dtype))


def depend_on(x: jax.Array, *results: jax.Array) -> jax.Array:
    """Return `x`, computed only after some results (NaN where one of them is NaN).

    If `x` overwrites a buffer that those results read, XLA then reads the buffer first and need not copy it. XLA orders
    only what depends on a result. A barrier does not help: its output is a copy, too.
    """
    for result in results:
        x = jnp.where(result == result, x, result)
    return x


def sum_result(x: jax.Array) -> jax.Array:
    """Return the sum of an array that was just computed and need not be written to memory.

    On a CPU this is `sum_carrying_error`: D-Adaptation and Prodigy have one tree of temporaries less. Vectors, and
    arrays on a mesh with Explicit axes, take a plain sum.
    """
    if x.ndim < 2 or jnp.iscomplexobj(x) or jax.typeof(x).sharding.mesh.explicit_axes:
        return jnp.sum(x)
    dims = tuple(range(x.ndim))
    return lax.platform_dependent(x, cpu=lambda x: sum_carrying_error(x, dims), default=jnp.sum)


LONGEST_ROW = 4096
"""Length of a row whose numbers may be added one by one: a sum of squares is then off by some 4e-6 in float32."""


def sum_results(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sums of two arrays that were just computed and need not be written to memory.

    On a CPU this is one variadic sum over rows, if the arrays are alike and rows are short. It is fused with its
    operands and divided among threads, and takes 0.8 of the time of two sums that carry errors: LAMB has no
    temporaries, instead of one tree.
    """
    sharding = jax.typeof(x).sharding
    alike = (x.shape, x.dtype) == (y.shape, y.dtype) and sharding == jax.typeof(y).sharding
    short_rows = x.ndim > 1 and x.shape[-1] <= LONGEST_ROW
    if not (alike and short_rows) or sharding.mesh.explicit_axes or jnp.iscomplexobj(x):
        return sum_result(x), sum_result(y)
    return lax.platform_dependent(x, y, cpu=_sum_both, default=lambda x, y: (jnp.sum(x), jnp.sum(y)))


@jax.custom_jvp
def _sum_both(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    zero = np.zeros((), x.dtype)
    rows = lax.reduce((x, y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (x.ndim - 1,))
    return jnp.sum(rows[0]), jnp.sum(rows[1])


@_sum_both.defjvp
def _sum_both_jvp(primals: Any, tangents: Any) -> Any:
    """Differentiate as plain sums: JAX does not differentiate a variadic one."""
    return _sum_both(*primals), tuple(map(jnp.sum, tangents))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def sum_carrying_error(x: jax.Array, dims: tuple[int, ...], keepdims: bool = False) -> jax.Array:
    """Return the sum along some dimensions, without a copy of the array.

    XLA:CPU fuses the operand into a variadic sum that carries its rounding error (Knuth's two-sum). It adds a row
    element by element, so it needs the error term.
    """
    zero = np.zeros((), x.dtype)
    total, error = lax.reduce((x, jnp.zeros_like(x)), (zero, zero), _two_sum, dims[-1:])
    rows = jnp.expand_dims(jnp.where(jnp.isfinite(total), total + error, total), dims[-1])
    return jnp.sum(rows, dims, keepdims=keepdims)


@sum_carrying_error.defjvp
def _sum_carrying_error_jvp(dims: tuple[int, ...], keepdims: bool, primals: Any, tangents: Any) -> Any:
    """Differentiate as a plain sum: JAX does not differentiate a variadic one."""
    return sum_carrying_error(*primals, dims, keepdims), jnp.sum(tangents[0], dims, keepdims=keepdims)


def _two_sum(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Add two pairs of a sum and its rounding error."""
    total = a[0] + b[0]
    back = total - a[0]
    return total, a[1] + b[1] + ((a[0] - (total - back)) + (b[0] - back))


def with_one_branch(
    sums: Callable[[Any, list[jax.Array]], T], of_batch: Callable[[list[jax.Array]], T], plan: Any, xs: list[jax.Array]
) -> T:
    """Return `sums(plan, xs)`, where a branch of `sums` serves a whole batch.

    Under `vmap` a plain `cond` computes both of its branches.

    Args:
      sums: a function with a `cond` inside.
      of_batch: computes the sums of arrays that have one more leading dimension.
      plan: the static argument of `sums`.
      xs: arrays.
    """

    @jax.custom_batching.custom_vmap
    def of(xs: list[jax.Array]) -> T:
        return sums(plan, xs)

    @of.def_vmap
    def of_batched(axis_size: int, in_batched: Any, xs: list[jax.Array]) -> tuple[T, Any]:
        (batched,) = in_batched
        xs = [x if has else jnp.broadcast_to(x, (axis_size, *x.shape)) for x, has in zip(xs, batched, strict=True)]
        result = of_batch(xs)
        return result, jax.tree.map(lambda _: True, result)

    return of(xs)


def hidden_starts(sizes: Sequence[int]) -> tuple[ArrayLike, ...]:
    """Return the index at which each array starts in a concatenation.

    On a CPU the indices come from a branch whose two sides are equal, so XLA does not know them. XLA compiles a loop
    for every start that it knows, and one loop for a shape where it does not. So a step of 292 packed leaves compiles
    in 0.13 of the time.
    """
    starts = tuple(np.uint32(start) for start in np.cumsum([0, *sizes[:-1]]))
    return lax.platform_dependent(
        cpu=lambda: lax.cond(lax.optimization_barrier(True), lambda: starts, lambda: starts), default=lambda: starts
    )
