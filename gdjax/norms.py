"""Norms and means of leaves and of trees, also where leaves are sharded over a named axis.

`axis_name` is the axis that leaves are sharded over, as in `shard_map`. A leaf counts as replicated if its type is
invariant over the axis. Under `vmap`, `pmap` and `check_vma=False`, types do not say, and every leaf counts as sharded.
Each function costs one collective per dtype.

A norm is accurate over the whole range of its dtype: squares are summed at three scales (`gdjax/squares.py`).
"""

import math
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp

from gdjax import axes, squares
from gdjax.explaining import explain_errors
from gdjax.specs import explicit_mesh
from gdjax.squares import ScaledNorm
from gdjax.tree import Tree, widen


@explain_errors("global_norm")
def global_norm(updates: Tree, axis_name: axes.AxisName = None) -> jax.Array:
    r"""Return the Euclidean norm of all leaves as one vector, $\lVert g \rVert = \sqrt{\sum_i |g_i|^2}$.

    The norm is accumulated in float32 or wider, and accurate over the whole range of that dtype: squares neither
    overflow nor underflow. Its derivative at 0 is 0.

    Args:
      updates: a tree of arrays.
      axis_name: the axis that leaves are sharded over, as in `shard_map`. A leaf whose type is invariant over the axis
        is replicated. Where types do not say (`vmap`, `pmap`, `check_vma=False`), every leaf counts as sharded.

    >>> print(global_norm({"w": jnp.array([3.0]), "b": jnp.array([4.0])}))
    5.0
    >>> print(global_norm(jnp.array([3e30, 4e30])))
    5e+30
    """
    return global_norms([updates], axis_name)[0]


def global_norms(trees: Sequence[Tree], axis_name: axes.AxisName = None) -> list[jax.Array]:
    """Return the norm of each tree."""
    return [norm.norm() for norm in global_scaled_norms(trees, axis_name)]


def global_scaled_norm(tree: Tree, axis_name: axes.AxisName = None) -> ScaledNorm:
    """Return the norm of a tree as `root / scale`, which stays in range even if the norm does not."""
    return global_scaled_norms([tree], axis_name)[0]


def global_scaled_norms(trees: Sequence[Tree], axis_name: axes.AxisName = None) -> list[ScaledNorm]:
    """Return the norm of each tree as `root / scale`."""
    groups = [widen(_differentiable_leaves(tree)) for tree in trees]
    over = [[axes.sharded_axes(x, axis_name) for x in xs] for xs in groups]
    return squares.scaled_norms(groups, over)


def rms_over_axis(norm: jax.Array, axis_name: axes.AxisName) -> jax.Array:
    """Return the root mean square of the per-device norms over the devices of an axis."""
    if not (names := axes.names(axis_name)):
        return norm
    (total,) = squares.scaled_norms([[norm]], [[names]])
    return total.norm() / math.sqrt(axes.size(names))


def _differentiable_leaves(tree: Tree) -> list[jax.Array]:
    """Return the leaves, without the gradients of integers (float0)."""
    return [leaf for leaf in jax.tree.leaves(tree) if getattr(leaf, "dtype", None) != jax.dtypes.float0]


def scalar_sums(terms: Sequence[Tree], axis_name: axes.AxisName = None) -> list[jax.Array]:
    """Return the sum of each tree of scalars, where each scalar is a sum over a leaf or over its local shard."""
    totals = map(jax.tree.leaves, axes.psum_scalars(terms, terms, axis_name))
    return [jnp.asarray(sum(scalars)) if scalars else jnp.zeros((), jnp.float32) for scalars in totals]


def leaf_norms(tree: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the Euclidean norm of each leaf; its derivative at 0 is 0."""
    return _unscale(leaf_scaled_norms(tree, axis_name))


def leaf_rms(tree: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the root mean square of each leaf, 0 for an empty leaf; its derivative at 0 is 0."""
    return _unscale(leaf_scaled_rms(tree, axis_name))


def _unscale(scaled_norms: Tree) -> Tree:
    return jax.tree.map(ScaledNorm.norm, scaled_norms, is_leaf=lambda x: isinstance(x, ScaledNorm))


def leaf_scaled_norms(tree: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the norm of each leaf as `root / scale`."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten(
        squares.scaled_norms([[x] for x in leaves], [[axes.sharded_axes(x, axis_name)] for x in leaves])
    )


def result_scaled_norms(
    tree: Tree, axis_name: axes.AxisName = None, recompute: Callable[[], Tree] | None = None
) -> Tree:
    """Return the norm of each leaf as `root / scale`, for leaves that need not be written to memory.

    Args:
      tree: a tree of arrays just computed.
      axis_name: the axis that leaves are sharded over.
      recompute: returns the tree again; with `None` this is `leaf_scaled_norms`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    if recompute is None or axes.names(axis_name) or explicit_mesh(leaves):
        return leaf_scaled_norms(tree, axis_name)
    if len({axes.varying_axes(x) for x in leaves}) != 1:  # one branch serves all
        return leaf_scaled_norms(tree, axis_name)
    return treedef.unflatten(squares.scaled_norms_of_results(leaves, lambda: jax.tree.leaves(recompute())))


def leaf_scaled_rms(tree: Tree, axis_name: axes.AxisName = None, recompute: Callable[[], Tree] | None = None) -> Tree:
    """Return the root mean square of each leaf as `root / scale`; `recompute` as in `result_scaled_norms`."""

    def rms(x, norm):
        return ScaledNorm(norm.root / math.sqrt(_global_size(x, axis_name)), norm.scale)

    return jax.tree.map(rms, tree, result_scaled_norms(tree, axis_name, recompute))


def scaled_norms_along(
    xs: Sequence[jax.Array], dims: Sequence[Sequence[int]], over: Sequence[tuple[Hashable, ...]] | None = None
) -> list[ScaledNorm]:
    """Return the norm of each array along some of its dimensions, which are kept, and over named axes."""
    return squares.scaled_norms([[x] for x in xs], [[names] for names in over or [()] * len(xs)], dims)


def leaf_means(tree: Tree, like: Tree, axis_name: axes.AxisName = None) -> Tree:
    """Return the mean of each leaf, in the real dtype of the corresponding leaf of `like`."""
    sums = jax.tree.map(lambda x, other: jnp.sum(x, dtype=jnp.finfo(other.dtype).dtype), tree, like)
    return jax.tree.map(
        lambda total, x: total / _global_size(x, axis_name), axes.psum_scalars(sums, sums, axis_name), tree
    )


def _global_size(x: jax.Array, axis_name: axes.AxisName) -> float:
    """Return the size of a leaf over all its shards, at least 1; it may exceed the range of int32."""
    return float(max(x.size * axes.size(axes.sharded_axes(x, axis_name)), 1))


def sums_along(
    xs: Sequence[jax.Array], dims: Sequence[Sequence[int]], over: Sequence[tuple[Hashable, ...]], keepdims: bool = False
) -> list[jax.Array]:
    """Return the sum of each array along some of its dimensions, and over the named axes that shard them."""
    sums = [jnp.sum(x, tuple(along), keepdims=keepdims) for x, along in zip(xs, dims, strict=True)]
    return axes.psum_arrays(sums, over)


def means_along(
    xs: Sequence[jax.Array], dims: Sequence[Sequence[int]], over: Sequence[tuple[Hashable, ...]], keepdims: bool = False
) -> list[jax.Array]:
    """Return the mean of each array along some of its dimensions. It divides before it sums, so that no sum is inf.

    One power of two serves all arrays.
    """
    sizes, divisor = mean_sizes(xs, dims, over)
    sums = sums_along([x / divisor for x in xs], dims, over, keepdims=keepdims)
    return [total * (divisor / size) for total, size in zip(sums, sizes, strict=True)]


def mean_sizes(
    xs: Sequence[jax.Array], dims: Sequence[Sequence[int]], over: Sequence[tuple[Hashable, ...]]
) -> tuple[list[int], float]:
    """Return how many numbers each mean is over, at least 1, and a power of two that is at least as large as all."""
    shapes = [math.prod(x.shape[i] for i in along) for x, along in zip(xs, dims, strict=True)]
    sizes = [max(number * axes.size(names), 1) for number, names in zip(shapes, over, strict=True)]
    return sizes, 2.0 ** math.ceil(math.log2(max([1, *sizes])))
