"""Euclidean projections of trees, by Optax's names: the nearest point of a set.

Leaves keep their dtypes, and sums over narrow leaves are float32. Python numbers as leaves count as floats.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from gdjax.concrete import concrete_value, require_nonnegative
from gdjax.fallback import stand_in
from gdjax.norms import global_scaled_norm
from gdjax.squares import clip_to_norm, multiply_in_turn
from gdjax.tree import Tree, as_dtype, path, wide

__getattr__, __dir__ = stand_in(__name__)


def projection_non_negative(tree: Tree) -> Tree:
    """Return the nearest tree of numbers that are at least 0: each number, or 0.

    Args:
      tree: the tree to project.

    Raises:
      ValueError: a leaf is complex; the message names it.

    >>> print(projection_non_negative(jnp.array([2.0, -1.0])))
    [2. 0.]
    """
    _require_real("projection_non_negative", tree)
    return jax.tree.map(jax.nn.relu, tree)


def projection_box(tree: Tree, lower: Any, upper: Any) -> Tree:
    """Return the nearest tree of numbers between two bounds.

    Args:
      tree: the tree to project.
      lower: the least value of each number: a number or an array, `None` for no bound, or a tree of these like `tree`.
      upper: the greatest value, given in the same ways.

    Raises:
      ValueError: a leaf is complex, or a bound is larger than its leaf; the message names it.

    >>> print(projection_box(jnp.array([2.0, -1.0, 0.3]), 0.0, 1.0))
    [1.  0.  0.3]
    """
    return _in_box("projection_box", tree, lower, upper)


def projection_hypercube(tree: Tree, scale: Any = 1) -> Tree:
    """Return the nearest tree of numbers from 0 to `scale`.

    Args:
      tree: the tree to project.
      scale: the side of the cube: a number or an array, or a tree of these like `tree`.

    Raises:
      ValueError: a leaf is complex, or a scale is larger than its leaf; the message names it.

    >>> projection_hypercube({"w": jnp.array([2.0, -1.0]), "b": jnp.array(5.0)})
    {'b': Array(1., dtype=float32), 'w': Array([1., 0.], dtype=float32)}
    """
    _require_radius("projection_hypercube", scale)
    return _in_box("projection_hypercube", tree, 0, scale)


def projection_linf_ball(tree: Tree, scale: Any = 1) -> Tree:
    """Return the nearest tree of numbers from `-scale` to `scale`.

    Args:
      tree: the tree to project.
      scale: the radius of the ball: a number or an array, or a tree of these like `tree`.

    Raises:
      ValueError: a leaf is complex, or a scale is larger than its leaf; the message names it.

    >>> print(projection_linf_ball(jnp.array([2.0, -0.5])))
    [ 1.  -0.5]
    """
    _require_radius("projection_linf_ball", scale)
    return _in_box("projection_linf_ball", tree, jax.tree.map(jnp.negative, scale), scale)


def projection_simplex(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree of numbers that are at least 0 and sum to `scale`.

    An empty tree is returned as it is.

    Args:
      tree: the tree to project.
      scale: the sum, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf complex or an array of integers; the message names it.

    >>> print(projection_simplex(jnp.array([2.5, 3.2])))
    [0.14999998 0.85      ]
    """
    _require_radius("projection_simplex", scale)
    _require_real("projection_simplex", tree)
    return _on_simplex("projection_simplex", tree, scale)


def projection_l1_sphere(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose absolute values sum to `scale`.

    Where two points are equally near, as for a number of 0, the positive one is taken. An empty tree is returned as
    it is.

    Args:
      tree: the tree to project.
      scale: the radius of the sphere, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an array of integers; the message names it.

    >>> print(projection_l1_sphere(jnp.array([-3.0, 1.0, 0.0])))
    [-1.  0.  0.]
    """
    _require_radius("projection_l1_sphere", scale)
    numbers = _wide("projection_l1_sphere", tree)
    sizes = _on_simplex("projection_l1_sphere", jax.tree.map(jnp.abs, numbers), scale)
    signs = jax.tree.map(lambda x: jnp.where(x == 0, 1, jnp.sign(x)), numbers)
    return _as(tree, jax.tree.map(jnp.multiply, signs, sizes))


def projection_l1_ball(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose absolute values sum to at most `scale`.

    Args:
      tree: the tree to project.
      scale: the radius of the ball, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an array of integers; the message names it.

    >>> print(projection_l1_ball(jnp.array([-3.0, 1.0])))
    [-1.  0.]
    """
    _require_radius("projection_l1_ball", scale)
    numbers = _wide("projection_l1_ball", tree)
    total = sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(numbers))
    within = jnp.asarray(total) <= scale
    return _as(tree, jax.lax.cond(within, lambda x: x, lambda x: projection_l1_sphere(x, scale), numbers))


def projection_l2_sphere(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose Euclidean norm is `scale`.

    All points of the sphere are equally near to a tree of zeros: the one of equal numbers is taken, and the
    derivative there is 0.

    Args:
      tree: the tree to project.
      scale: the radius of the sphere, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an array of integers; the message names it.

    >>> print(projection_l2_sphere(jnp.array([3.0, 4.0]), 10.0))
    [6. 8.]
    """
    _require_radius("projection_l2_sphere", scale)
    numbers = _wide("projection_l2_sphere", tree)
    length, size = global_scaled_norm(numbers), sum(x.size for x in jax.tree.leaves(numbers))
    zero = length.root == 0
    radius = scale / jnp.where(zero, 1, length.root)
    return _as(
        tree,
        jax.tree.map(lambda x: jnp.where(zero, size**-0.5 * scale, multiply_in_turn(x, length.scale, radius)), numbers),
    )


def projection_l2_ball(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose Euclidean norm is at most `scale`.

    Args:
      tree: the tree to project.
      scale: the radius of the ball, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an array of integers; the message names it.

    >>> print(projection_l2_ball(jnp.array([3.0, 4.0])))
    [0.6 0.8]
    """
    _require_radius("projection_l2_ball", scale)
    numbers = _wide("projection_l2_ball", tree)
    length = global_scaled_norm(numbers)
    return _as(tree, jax.tree.map(lambda x: clip_to_norm(x, length, scale), numbers))


def projection_vector(x: Tree, a: Tree) -> Tree:
    """Return the nearest multiple of a tree: `<a, x> / <a, a> a`, and 0 where `a` is 0.

    Args:
      x: the tree to project.
      a: the tree whose multiples form the line, of the same shapes.

    Raises:
      ValueError: the shapes differ, or a leaf is an array of integers; the message names it.

    >>> print(projection_vector(jnp.array([2.0, 2.0]), jnp.array([0.0, 3.0])))
    [0. 2.]
    """
    numbers, unit, _ = _with_unit("projection_vector", x, a)
    along = _vdot(unit, numbers)
    return _as(x, jax.tree.map(lambda u: along * u, unit))


def projection_hyperplane(x: Tree, a: Tree, b: ArrayLike) -> Tree:
    """Return the nearest tree `y` with `<a, y> = b`; `x` itself where `a` is 0, which defines no hyperplane.

    Args:
      x: the tree to project.
      a: the normal of the hyperplane, of the same shapes.
      b: the offset of the hyperplane, a number.

    Raises:
      ValueError: the shapes differ, or a leaf is an array of integers; the message names it.

    >>> print(projection_hyperplane(jnp.array([2.0, 2.0]), jnp.array([0.0, 3.0]), 3.0))
    [2. 1.]
    """
    numbers, unit, norm = _with_unit("projection_hyperplane", x, a)
    short = jnp.where(norm == 0, 0, b / jnp.where(norm == 0, 1, norm)) - _vdot(unit, numbers)
    return _as(x, jax.tree.map(lambda x, u: x + short * u, numbers, unit))


def projection_halfspace(x: Tree, a: Tree, b: ArrayLike) -> Tree:
    """Return the nearest tree `y` with `<a, y> <= b`; `x` itself where `a` is 0, which defines no half-space.

    Args:
      x: the tree to project.
      a: the normal of the bounding hyperplane, of the same shapes.
      b: the offset of that hyperplane, a number.

    Raises:
      ValueError: the shapes differ, or a leaf is complex or an array of integers; the message names it.

    >>> print(projection_halfspace(jnp.array([2.0, 2.0]), jnp.array([0.0, 3.0]), 3.0))
    [2. 1.]
    """
    _require_real("projection_halfspace", x)
    _require_real("projection_halfspace", a)
    numbers, unit, norm = _with_unit("projection_halfspace", x, a)
    short = jnp.where(norm == 0, 0, b / jnp.where(norm == 0, 1, norm)) - _vdot(unit, numbers)
    return _as(x, jax.tree.map(lambda x, u: x + jnp.minimum(short, 0) * u, numbers, unit))


def _in_box(who: str, tree: Tree, lower: Any, upper: Any) -> Tree:
    _require_real(who, tree)

    def clip(keys: Any, x: Any, low: Any, high: Any) -> Any:
        least, most = concrete_value(low), concrete_value(high)
        if least is not None and most is not None and np.any(least > most):
            raise ValueError(f"{who}: lower must be at most upper, got {low} and {high}.")
        bounded = jnp.clip(x, low, high)
        if bounded.shape != jnp.shape(x):
            raise ValueError(f"{who}: a bound is larger than {path(keys) or 'the leaf'}, of shape {jnp.shape(x)}.")
        return as_dtype(bounded, jnp.result_type(x)) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else bounded

    lows, highs = (_for_each_leaf(bound, tree) for bound in (lower, upper))
    keys, structure = jax.tree_util.tree_flatten_with_path(tree)
    return structure.unflatten([clip(*key, low, high) for key, low, high in zip(keys, lows, highs, strict=True)])


def _for_each_leaf(bound: Any, tree: Tree) -> list[Any]:
    """Return the bound of each leaf, from one bound for all or from a tree that is a prefix of the other."""
    found = []
    repeat = functools.partial(_repeat, found)
    jax.tree.map(repeat, bound, tree, is_leaf=lambda x: x is None)
    return found


def _repeat(found: list[Any], bound: Any, tree: Tree) -> None:
    found += [bound] * len(jax.tree.leaves(tree))


def _on_simplex(who: str, tree: Tree, scale: ArrayLike) -> Tree:
    values, unravel = ravel_pytree(_wide(who, tree))
    return _as(tree, unravel(_simplex(values, jnp.asarray(scale, values.dtype)))) if values.size else tree


@jax.custom_jvp
def _simplex(values: jax.Array, scale: jax.Array) -> jax.Array:
    """Project a vector onto a simplex by its sorted numbers (Held, Wolfe and Crowder, 1974).

    A constant added to all numbers changes nothing, and a number less than the largest minus the scale becomes 0:
    between them, sums keep their digits.
    """
    values = jnp.maximum(values - jnp.max(values), -scale)
    ordered = jnp.sort(values)[::-1]
    number = jnp.arange(1, values.size + 1)
    excess = (scale - jnp.cumsum(ordered)) / number
    last = jnp.maximum(jnp.count_nonzero(ordered + excess > 0), 1) - 1
    return jax.nn.relu(values + excess[last])


@_simplex.defjvp
def _simplex_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (values, scale), (by_value, by_scale) = primals, tangents
    result = _simplex(values, scale)
    support = result > 0
    number = jnp.maximum(jnp.count_nonzero(support), 1)
    change = by_value + (by_scale - jnp.sum(jnp.where(support, by_value, 0))) / number
    return result, jnp.where(support, change, 0)


def _with_unit(who: str, x: Tree, a: Tree) -> tuple[Tree, Tree, jax.Array]:
    """Return `x`, `a` over its norm (0 where `a` is 0), and that norm."""
    numbers, normal = _wide(who, x), _wide(who, a)

    def check(keys: Any, x: jax.Array, a: jax.Array) -> None:
        if x.shape != a.shape:
            raise ValueError(f"{who}: {path(keys) or 'the leaf'} has shape {x.shape} in x and {a.shape} in a.")

    jax.tree_util.tree_map_with_path(check, numbers, normal)
    length = global_scaled_norm(normal)
    inverse = 1 / jnp.where(length.root == 0, 1, length.root)
    return numbers, jax.tree.map(lambda a: multiply_in_turn(a, length.scale, inverse), normal), length.norm()


def _vdot(x: Tree, y: Tree) -> jax.Array:
    products = jax.tree.map(lambda x, y: jnp.sum(jnp.conj(x) * y), x, y)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _wide(who: str, tree: Tree) -> Tree:
    """Return the leaves in the dtype of accumulation; refuse arrays of integers, since a projection has fractions."""

    def widen(keys: Any, x: Any) -> jax.Array:
        if hasattr(x, "dtype") and not jnp.issubdtype(x.dtype, jnp.inexact):
            must = "must be floating or complex, since the projection has fractions"
            raise ValueError(f"{who}: {path(keys) or 'the leaf'} {must}, got {x.dtype}.")
        return as_dtype(x, wide(jnp.dtype(jnp.result_type(x))))

    return jax.tree_util.tree_map_with_path(widen, tree)


def _as(tree: Tree, projected: Tree) -> Tree:
    """Return the projection in the dtypes of the tree; for Python numbers, in that of accumulation."""
    return jax.tree.map(
        lambda x, y: as_dtype(y, jnp.result_type(x) if hasattr(x, "dtype") else y.dtype), tree, projected
    )


def _require_real(who: str, tree: Tree) -> None:
    for keys, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(jnp.result_type(x), jnp.complexfloating):
            raise ValueError(f"{who}: {path(keys) or 'the leaf'} must be real, got {jnp.result_type(x)}.")


def _require_radius(who: str, scale: Any) -> None:
    for number in jax.tree.leaves(scale):
        require_nonnegative(f"{who}: scale", number)
