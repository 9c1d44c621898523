"""Euclidean projections of pytrees onto sets, under Optax's names.

Leaves keep their dtypes. Sums over 16-bit leaves are computed in float32. Python numbers count as float leaves.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import KeyPath
from jax.typing import ArrayLike

from gdjax import exports
from gdjax.concrete import concrete_value, require_nonnegative
from gdjax.fallback import stand_in
from gdjax.norms import global_scaled_norm
from gdjax.squares import clip_to_norm, multiply_in_turn
from gdjax.tree import Tree, as_dtype, path, wide

__getattr__, __dir__ = stand_in(__name__, exports.HOME)


def projection_non_negative(tree: Tree) -> Tree:
    """Return the nearest tree with no negative element: `max(x, 0)` elementwise.

    Args:
      tree: the tree to project.

    Raises:
      ValueError: a leaf is complex; the message names the leaf.

    >>> print(projection_non_negative(jnp.array([2.0, -1.0])))
    [2. 0.]
    """
    _require_real("projection_non_negative", tree)
    return jax.tree.map(jax.nn.relu, tree)


def projection_box(tree: Tree, lower: Tree, upper: Tree) -> Tree:
    """Return the nearest tree whose elements lie between two bounds.

    Args:
      tree: the tree to project.
      lower: the lower bound: a number, an array, `None` for no bound, or a tree of these that is a prefix of `tree`.
      upper: the upper bound, in the same form.

    Raises:
      ValueError: a leaf is complex, a lower bound exceeds its upper bound, or a bound's shape would enlarge a leaf.

    >>> print(projection_box(jnp.array([2.0, -1.0, 0.3]), 0.0, 1.0))
    [1.  0.  0.3]
    """
    return _projection_box("projection_box", tree, lower, upper)


def projection_hypercube(tree: Tree, scale: Tree = 1) -> Tree:
    """Return the nearest tree whose elements lie in `[0, scale]`.

    Args:
      tree: the tree to project.
      scale: the side of the cube, at least 0: a number, an array, or a tree of these that is a prefix of `tree`.

    Raises:
      ValueError: a scale is negative, a leaf is complex, or a scale's shape would enlarge a leaf.

    >>> projection_hypercube({"w": jnp.array([2.0, -1.0]), "b": jnp.array(5.0)})
    {'b': Array(1., dtype=float32), 'w': Array([1., 0.], dtype=float32)}
    """
    _require_radius("projection_hypercube", scale)
    return _projection_box("projection_hypercube", tree, 0, scale)


def projection_linf_ball(tree: Tree, scale: Tree = 1) -> Tree:
    """Return the nearest tree whose elements lie in `[-scale, scale]`.

    Args:
      tree: the tree to project.
      scale: the radius of the ball, at least 0: a number, an array, or a tree of these that is a prefix of `tree`.

    Raises:
      ValueError: a scale is negative, a leaf is complex, or a scale's shape would enlarge a leaf.

    >>> print(projection_linf_ball(jnp.array([2.0, -0.5])))
    [ 1.  -0.5]
    """
    _require_radius("projection_linf_ball", scale)
    return _projection_box("projection_linf_ball", tree, jax.tree.map(jnp.negative, scale), scale)


def projection_simplex(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose elements are non-negative and sum to `scale`.

    A tree without elements is returned unchanged.

    Args:
      tree: the tree to project.
      scale: the sum, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is complex or an integer array.

    >>> print(projection_simplex(jnp.array([2.5, 3.2])))
    [0.14999998 0.85      ]
    """
    _require_radius("projection_simplex", scale)
    _require_real("projection_simplex", tree)
    return _projection_simplex("projection_simplex", tree, scale)


def projection_l1_sphere(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose absolute values sum to `scale`.

    Where two points are equally near, as for an element of 0, the positive one is returned. A tree without elements
    is returned unchanged.

    Args:
      tree: the tree to project.
      scale: the radius of the sphere, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an integer array.

    >>> print(projection_l1_sphere(jnp.array([-3.0, 1.0, 0.0])))
    [-1.  0.  0.]
    """
    _require_radius("projection_l1_sphere", scale)
    values = _upcast_leaves("projection_l1_sphere", tree)
    sizes = _projection_simplex("projection_l1_sphere", jax.tree.map(jnp.abs, values), scale)
    signs = jax.tree.map(lambda x: jnp.where(x == 0, 1, jnp.sign(x)), values)
    return _cast_projection(tree, jax.tree.map(jnp.multiply, signs, sizes))


def projection_l1_ball(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose absolute values sum to at most `scale`.

    Args:
      tree: the tree to project.
      scale: the radius of the ball, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an integer array.

    >>> print(projection_l1_ball(jnp.array([-3.0, 1.0])))
    [-1.  0.]
    """
    _require_radius("projection_l1_ball", scale)
    values = _upcast_leaves("projection_l1_ball", tree)
    norm = sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(values))
    is_inside = jnp.asarray(norm) <= scale
    projected = jax.lax.cond(is_inside, lambda x: x, lambda x: projection_l1_sphere(x, scale), values)
    return _cast_projection(tree, projected)


def projection_l2_sphere(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose Euclidean norm is `scale`.

    For a tree of zeros, all points of the sphere are equally near. The one with equal elements is returned, and the
    derivative is 0.

    Args:
      tree: the tree to project.
      scale: the radius of the sphere, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an integer array.

    >>> print(projection_l2_sphere(jnp.array([3.0, 4.0]), 10.0))
    [6. 8.]
    """
    _require_radius("projection_l2_sphere", scale)
    values = _upcast_leaves("projection_l2_sphere", tree)
    norm, size = global_scaled_norm(values), sum(x.size for x in jax.tree.leaves(values))
    is_zero = norm.root == 0
    radius = scale / jnp.where(is_zero, 1, norm.root)
    return _cast_projection(
        tree,
        jax.tree.map(lambda x: jnp.where(is_zero, size**-0.5 * scale, multiply_in_turn(x, norm.scale, radius)), values),
    )


def projection_l2_ball(tree: Tree, scale: ArrayLike = 1) -> Tree:
    """Return the nearest tree whose Euclidean norm is at most `scale`.

    Args:
      tree: the tree to project.
      scale: the radius of the ball, at least 0.

    Raises:
      ValueError: `scale` is negative, or a leaf is an integer array.

    >>> print(projection_l2_ball(jnp.array([3.0, 4.0])))
    [0.6 0.8]
    """
    _require_radius("projection_l2_ball", scale)
    values = _upcast_leaves("projection_l2_ball", tree)
    norm = global_scaled_norm(values)
    return _cast_projection(tree, jax.tree.map(lambda x: clip_to_norm(x, norm, scale), values))


def projection_vector(x: Tree, a: Tree) -> Tree:
    """Return the nearest multiple of `a`: `<a, x> / <a, a> a`, or 0 if `a` is 0.

    Args:
      x: the tree to project.
      a: the tree whose multiples form the line, with the shapes of `x`.

    Raises:
      ValueError: the shapes differ, or a leaf is an integer array; the message names the leaf.

    >>> print(projection_vector(jnp.array([2.0, 2.0]), jnp.array([0.0, 3.0])))
    [0. 2.]
    """
    values, unit, _ = _values_and_unit_normal("projection_vector", x, a)
    coefficient = _vdot(unit, values)
    return _cast_projection(x, jax.tree.map(lambda u: coefficient * u, unit))


def projection_hyperplane(x: Tree, a: Tree, b: ArrayLike) -> Tree:
    """Return the nearest tree `y` with `<a, y> = b`, or `x` itself if `a` is 0.

    Args:
      x: the tree to project.
      a: the normal of the hyperplane, with the shapes of `x`.
      b: the offset of the hyperplane, a scalar.

    Raises:
      ValueError: the shapes differ, or a leaf is an integer array; the message names the leaf.

    >>> print(projection_hyperplane(jnp.array([2.0, 2.0]), jnp.array([0.0, 3.0]), 3.0))
    [2. 1.]
    """
    values, unit, norm = _values_and_unit_normal("projection_hyperplane", x, a)
    distance = jnp.where(norm == 0, 0, b / jnp.where(norm == 0, 1, norm)) - _vdot(unit, values)
    return _cast_projection(x, jax.tree.map(lambda x, u: x + distance * u, values, unit))


def projection_halfspace(x: Tree, a: Tree, b: ArrayLike) -> Tree:
    """Return the nearest tree `y` with `<a, y> <= b`, or `x` itself if `a` is 0.

    Args:
      x: the tree to project.
      a: the normal of the bounding hyperplane, with the shapes of `x`.
      b: the offset of that hyperplane, a scalar.

    Raises:
      ValueError: the shapes differ, or a leaf is complex or an integer array; the message names the leaf.

    >>> print(projection_halfspace(jnp.array([2.0, 2.0]), jnp.array([0.0, 3.0]), 3.0))
    [2. 1.]
    """
    _require_real("projection_halfspace", x)
    _require_real("projection_halfspace", a)
    values, unit, norm = _values_and_unit_normal("projection_halfspace", x, a)
    distance = jnp.where(norm == 0, 0, b / jnp.where(norm == 0, 1, norm)) - _vdot(unit, values)
    return _cast_projection(x, jax.tree.map(lambda x, u: x + jnp.minimum(distance, 0) * u, values, unit))


def _projection_box(who: str, tree: Tree, lower: Tree, upper: Tree) -> Tree:
    _require_real(who, tree)

    def clip(keys: KeyPath, x: ArrayLike, low: Any, high: Any) -> jax.Array:
        known_low, known_high = concrete_value(low), concrete_value(high)
        if known_low is not None and known_high is not None and np.any(known_low > known_high):
            raise ValueError(f"{who}: lower must be at most upper, got {low} and {high}.")
        clipped = jnp.clip(x, low, high)
        if clipped.shape != jnp.shape(x):
            raise ValueError(f"{who}: a bound is larger than {path(keys) or 'the leaf'}, of shape {jnp.shape(x)}.")
        return as_dtype(clipped, jnp.result_type(x)) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else clipped

    lows, highs = (_broadcast_bound(bound, tree) for bound in (lower, upper))
    keys, structure = jax.tree_util.tree_flatten_with_path(tree)
    return structure.unflatten([clip(*key, low, high) for key, low, high in zip(keys, lows, highs, strict=True)])


def _broadcast_bound(bound: Tree, tree: Tree) -> list[Any]:
    """Return the bound of each leaf, given a tree of bounds that is a prefix of the other tree."""
    bounds: list[Any] = []

    def append(bound: Any, subtree: Tree) -> None:
        bounds.extend([bound] * len(jax.tree.leaves(subtree)))

    jax.tree.map(append, bound, tree, is_leaf=lambda x: x is None)
    return bounds


def _projection_simplex(who: str, tree: Tree, scale: ArrayLike) -> Tree:
    values, unravel = ravel_pytree(_upcast_leaves(who, tree))
    if not values.size:
        return tree
    return _cast_projection(tree, unravel(_simplex_projection(values, jnp.asarray(scale, values.dtype))))


@jax.custom_jvp
def _simplex_projection(values: jax.Array, scale: jax.Array) -> jax.Array:
    """Project a vector onto a simplex by sorting it (Held, Wolfe and Crowder, 1974).

    Subtracting the largest element from all changes nothing. Elements below `-scale` then become 0, so clipping them
    there keeps the sums accurate.
    """
    values = jnp.maximum(values - jnp.max(values), -scale)
    ordered = jnp.sort(values)[::-1]
    shift = (scale - jnp.cumsum(ordered)) / jnp.arange(1, values.size + 1)
    last = jnp.maximum(jnp.count_nonzero(ordered + shift > 0), 1) - 1
    return jax.nn.relu(values + shift[last])


@_simplex_projection.defjvp
def _simplex_projection_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (values, scale), (values_dot, scale_dot) = primals, tangents
    result = _simplex_projection(values, scale)
    support = result > 0
    size = jnp.maximum(jnp.count_nonzero(support), 1)
    result_dot = values_dot + (scale_dot - jnp.sum(jnp.where(support, values_dot, 0))) / size
    return result, jnp.where(support, result_dot, 0)


def _values_and_unit_normal(who: str, x: Tree, a: Tree) -> tuple[Tree, Tree, jax.Array]:
    """Return `x`, `a / |a|` (0 if `a` is 0) and `|a|`, in the accumulation dtype."""
    values, normal = _upcast_leaves(who, x), _upcast_leaves(who, a)

    def check(keys: KeyPath, x: jax.Array, a: jax.Array) -> None:
        if x.shape != a.shape:
            raise ValueError(f"{who}: {path(keys) or 'the leaf'} has shape {x.shape} in x and {a.shape} in a.")

    jax.tree_util.tree_map_with_path(check, values, normal)
    norm = global_scaled_norm(normal)
    inverse = 1 / jnp.where(norm.root == 0, 1, norm.root)
    return values, jax.tree.map(lambda a: multiply_in_turn(a, norm.scale, inverse), normal), norm.norm()


def _vdot(x: Tree, y: Tree) -> jax.Array:
    products = jax.tree.map(lambda x, y: jnp.sum(jnp.conj(x) * y), x, y)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _upcast_leaves(who: str, tree: Tree) -> Tree:
    """Return the leaves in their accumulation dtype; reject integer arrays, since projections have fractions."""

    def upcast(keys: KeyPath, x: ArrayLike) -> jax.Array:
        if hasattr(x, "dtype") and not jnp.issubdtype(dtype := jnp.result_type(x), jnp.inexact):
            must = "must be floating or complex, since the projection has fractions"
            raise ValueError(f"{who}: {path(keys) or 'the leaf'} {must}, got {dtype}.")
        return as_dtype(x, wide(jnp.dtype(jnp.result_type(x))))

    return jax.tree_util.tree_map_with_path(upcast, tree)


def _cast_projection(tree: Tree, projected: Tree) -> Tree:
    """Cast the projection to the dtypes of the tree; Python numbers become arrays of the accumulation dtype."""
    return jax.tree.map(
        lambda x, y: as_dtype(y, jnp.result_type(x) if hasattr(x, "dtype") else y.dtype), tree, projected
    )


def _require_real(who: str, tree: Tree) -> None:
    for keys, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(jnp.result_type(x), jnp.complexfloating):
            raise ValueError(f"{who}: {path(keys) or 'the leaf'} must be real, got {jnp.result_type(x)}.")


def _require_radius(who: str, scale: Tree) -> None:
    for radius in jax.tree.leaves(scale):
        require_nonnegative(f"{who}: scale", radius)
