"""Norms and means of leaves and of whole trees; of leaves divided over a named axis, those of the whole.

`axis_name` is the axis over which leaves are divided, as in `shard_map`; a leaf that its type says is the same on all
members is whole. Under `vmap`, `pmap` and `check_vma=False` no type tells, and every leaf counts as a part. Whatever is
asked of one tree costs one collective for each dtype.

A norm is accurate over the whole range of its dtype: squares are summed at three scales (`gdjax/squares.py`).
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import axes, squares
from gdjax.explaining import explain_errors
from gdjax.squares import ScaledNorm
from gdjax.tree import Tree, widen


@explain_errors("global_norm")
def global_norm(updates: Tree, axis_name: axes.AxisName = None) -> jax.Array:
    r"""Return the Euclidean norm of all leaves as one vector, $\lVert g \rVert = \sqrt{\sum_i |g_i|^2}$.

    It is accumulated in float32 or wider, and accurate wherever the norm itself is in the range of that dtype: squares
    neither overflow nor vanish on the way. Its derivative at 0 is 0.

    Args:
      updates: a tree of arrays.
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    >>> print(global_norm({"w": jnp.array([3.0]), "b": jnp.array([4.0])}))
    5.0
    >>> print(global_norm(jnp.array([3e30, 4e30])))
    5e+30
    """
    return global_norms([updates], axis_name)[0]


def global_norms(trees: Sequence[Tree], axis_name: axes.AxisName = None) -> list[jax.Array]:
    """Return the norm of each of several trees."""
    return [length.norm() for length in global_scaled_norms(trees, axis_name)]


def global_scaled_norm(tree: Tree, axis_name: axes.AxisName = None) -> ScaledNorm:
    """Return the norm of a tree as a root over a scale, which stays in range where the norm does not."""
    return global_scaled_norms([tree], axis_name)[0]


def global_scaled_norms(trees: Sequence[Tree], axis_name: axes.AxisName = None) -> list[ScaledNorm]:
    """Return the norm of each of several trees as a root over a scale."""
    groups = [widen(_numbers(tree)) for tree in trees]
    over = [[axes.sharded_axes(x, axis_name) for x in xs] for xs in groups]
    return squares.scaled_norms(groups, over)


def rms_over_axis(norm: jax.Array, axis_name: axes.AxisName) -> jax.Array:
    """Return the root mean square, over the devices of an axis, of each device's norm."""
    if not (names := axes.names(axis_name)):
        return norm
    (together,) = squares.scaled_norms([[norm]], [[names]])
    return together.norm() / math.sqrt(axes.size(names))


def _numbers(tree: Tree) -> list[Any]:
    """The leaves, without the gradients of integers."""
    return [leaf for leaf in jax.tree.leaves(tree) if getattr(leaf, "dtype", None) != jax.dtypes.float0]


def scalar_sums(terms: Sequence[Tree], axis_name: axes.AxisName = None) -> list[jax.Array]:
    """The sum of each of several trees of scalars, each scalar the sum over a leaf, or over a part of it."""
    found = map(jax.tree.leaves, axes.psum_scalars(terms, terms, axis_name))
    return [jnp.asarray(sum(of)) if of else jnp.zeros((), jnp.float32) for of in found]


def leaf_norms(tree: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the Euclidean norm of every leaf; its derivative at 0 is 0."""
    return _norms(leaf_scaled_norms(tree, axis_name))


def leaf_rms(tree: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the root mean square of every leaf, 0 for an empty one; its derivative at 0 is 0."""
    return _norms(leaf_scaled_rms(tree, axis_name))


def _norms(lengths: Tree) -> Tree:
    return jax.tree.map(ScaledNorm.norm, lengths, is_leaf=lambda x: isinstance(x, ScaledNorm))


def leaf_scaled_norms(tree: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the norm of every leaf as a root over a scale."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten(
        squares.scaled_norms([[x] for x in leaves], [[axes.sharded_axes(x, axis_name)] for x in leaves])
    )


def leaf_scaled_rms(tree: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the root mean square of every leaf as a root over a scale."""

    def mean(x, length):
        return ScaledNorm(length.root / math.sqrt(_number(x, axis_name)), length.scale)

    return jax.tree.map(mean, tree, leaf_scaled_norms(tree, axis_name))


def scaled_norms_along(
    xs: Sequence[jax.Array], dims: Sequence[Sequence[int]], over: Sequence[tuple[Hashable, ...]] | None = None
) -> list[ScaledNorm]:
    """Return the norm of each array along some of its dimensions, which are kept, and over named axes."""
    return squares.scaled_norms([[x] for x in xs], [[names] for names in over or [()] * len(xs)], dims)


def leaf_means(tree: Tree, like: Tree, axis_name: axes.AxisName = None) -> Tree:
    """The mean of every leaf, in the real dtype of its counterpart."""
    added = jax.tree.map(lambda x, of: jnp.sum(x, dtype=jnp.finfo(of.dtype).dtype), tree, like)
    return jax.tree.map(lambda s, x: s / _number(x, axis_name), axes.psum_scalars(added, added, axis_name), tree)


def _number(x: jax.Array, axis_name: axes.AxisName) -> float:
    """How many elements the whole of a leaf has, more than an int32 holds perhaps; 1 of none."""
    return float(max(x.size * axes.size(axes.sharded_axes(x, axis_name)), 1))


def sums_along(
    xs: Sequence[jax.Array], dims: Sequence[Sequence[int]], over: Sequence[tuple[Hashable, ...]], keepdims: bool = False
) -> list[jax.Array]:
    """The sum of each array along dimensions of it, and over the names of axes where it is a part along these."""
    return axes.psum_arrays([jnp.sum(x, tuple(of), keepdims=keepdims) for x, of in zip(xs, dims, strict=True)], over)


def means_along(
    xs: Sequence[jax.Array], dims: Sequence[Sequence[int]], over: Sequence[tuple[Hashable, ...]], keepdims: bool = False
) -> list[jax.Array]:
    """Return the mean of each array along dimensions of it; it divides before it sums, since the sum may be inf."""
    numbers = [math.prod(x.shape[i] for i in of) * axes.size(own) for x, of, own in zip(xs, dims, over, strict=True)]
    shares = [x / float(max(number, 1)) for x, number in zip(xs, numbers, strict=True)]
    return sums_along(shares, dims, over, keepdims=keepdims)


def safe_sqrt(square: jax.Array) -> jax.Array:
    """`sqrt(square)`, 0 of 0 with the derivative 0 there.

    All that is made of a sum passes through a root, which XLA computes once: a comparison of the sum itself would make
    it compute the sum of a few hundred leaves anew for every leaf that the norm scales.
    """
    tiny = jnp.finfo(square.dtype).tiny
    return jnp.sqrt(square + tiny) - tiny**0.5
