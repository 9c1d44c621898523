"""Bound the gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax import axes, norms, tree
from gdjax.squares import clip_to_norm
from gdjax.value import NonNegative, Positive, stateless, transform
from gdjax.value.diagnose import require_params


@transform(elementwise=True)
def clip(max_delta: Positive):
    r"""Clip every element to $[-\delta, \delta]$, the parts of a complex one each for itself.

    Stateless: 0 bytes a parameter.

    Args:
      max_delta: $\delta$, in (0, inf].

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.clip(1.0)
    >>> print(tx.update(jnp.array([-3.0, 0.5]), tx.init(jnp.zeros(2)))[0])
    [-1.   0.5]
    """

    def clipped(updates, params):
        return tree.cast_like(jax.tree.map(lambda g: _clipped(g, max_delta), tree.widen(updates)), updates)

    return stateless(clipped)


def _clipped(g, bound):
    if jnp.iscomplexobj(g):
        return jax.lax.complex(_clipped(g.real, bound), _clipped(g.imag, bound))
    return jnp.clip(g, -bound, bound)


@transform(packable=True, shardable=True)
def clip_by_global_norm(max_norm: Positive, axis_name: Any = None):
    r"""Scale the gradient down where its norm is larger than a bound: $g \min(1, c / \lVert g \rVert)$.

    The norm is that of all leaves as one vector, accumulated in float32 or wider whatever their dtype. Each leaf is
    multiplied by one scalar, not divided by the norm: XLA copies a product into all that use it, but writes the
    quotients out as a whole tree.

    Stateless: 0 bytes a parameter. Source: Pascanu et al. 2013, algorithm 1 (https://arxiv.org/abs/1211.5063).

    Args:
      max_norm: $c$, in (0, inf].
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.clip_by_global_norm(1.0)
    >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))[0])
    [0.6 0.8]
    """

    def clipped(updates, params):
        length = norms.global_scaled_norm(updates, axis_name)
        return tree.cast_like(jax.tree.map(lambda g: clip_to_norm(g, length, max_norm), tree.widen(updates)), updates)

    return stateless(clipped)


@transform
def clip_by_block_rms(threshold: Positive, axis_name: Any = None):
    r"""Scale every leaf down where its root mean square is larger than a bound: $u \min(1, d / \mathrm{RMS}(u))$.

    Stateless: 0 bytes a parameter. Source: Shazeer and Stern 2018, section 6 (https://arxiv.org/abs/1804.04235).

    Args:
      threshold: $d$, in (0, inf].
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.clip_by_block_rms(1.0).update(jnp.array([2.0, -2.0, 2.0]), ())[0])
    [ 1. -1.  1.]
    """

    def clipped(updates, params):
        u = tree.widen(updates)
        sizes = norms.leaf_scaled_rms(u, axis_name)
        return tree.cast_like(jax.tree.map(lambda u, rms: clip_to_norm(u, rms, threshold), u, sizes), updates)

    return stateless(clipped)


@transform
def adaptive_grad_clip(
    clipping: Positive,
    eps: NonNegative = 1e-3,
    axis: int | tuple[int, ...] | None = None,
    axis_name: Any = None,
    dim: int = 0,
):
    r"""Scale a unit's gradient down where its norm is larger than a share of the norm of the unit's weights.

    $g_i \min(1, \lambda \max(\lVert w_i \rVert, \epsilon) / \lVert g_i \rVert)$ for every unit $i$.

    Stateless: 0 bytes a parameter. Source: Brock et al. 2021, equation 3 (https://arxiv.org/abs/2102.06171).

    Args:
      clipping: $\lambda$, in (0, inf].
      eps: $\epsilon$, in [0, inf): weights that start at zero can still move.
      axis: the axes along which the weights of one unit lie; by default the first of a leaf of 2 or 3 axes, all but the
        last of one of 4 or 5, and the whole of a vector.
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.
      dim: the dimension along which leaves are divided; another for some by `by_path`.

    Raises:
      ValueError: if `update` is called without `params`, a leaf has more than 5 axes and `axis` is not given, or a leaf
        that is divided has no dimension `dim`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> w, g = jnp.array([[3.0], [4.0]]), jnp.array([[6.0], [8.0]])
    >>> print(gd.adaptive_grad_clip(0.1).update(g, (), w)[0].T)
    [[0.3 0.4]]
    """
    for number in axis if isinstance(axis, tuple) else (axis,):
        if not (number is None or type(number) is int):
            raise TypeError(f"adaptive_grad_clip: axis must be an integer, a tuple of them or None, got {axis!r}.")

    def clipped(updates, params):
        require_params("adaptive_grad_clip", params)

        def bounded(g, weight, length):
            return clip_to_norm(g, length, clipping * jnp.maximum(weight.norm(), eps))

        w, g = tree.widen(params), tree.widen(updates)
        lengths = _unit_norms((w, g), axis, axis_name, dim)
        return tree.cast_like(jax.tree.map(bounded, g, *lengths), updates)

    return stateless(clipped)


def _unit_norms(trees, axis, axis_name, dim):
    """The norm of every unit of every leaf, axes kept at length 1."""
    xs, treedef = jax.tree.flatten(trees)
    along = [_unit_axes(axes.global_shape(x, axis_name, dim)) if axis is None else axis for x in xs]
    along = [of if isinstance(of, tuple) else (of,) for of in along]
    over = [axes.reduction_axes(x, of, axis_name, dim) for x, of in zip(xs, along, strict=True)]
    return treedef.unflatten(norms.scaled_norms_along(xs, along, over))


def _unit_axes(shape):
    """The axes along which the weights of one unit lie."""
    if sum(length != 1 for length in shape) <= 1:
        return tuple(range(len(shape)))
    if len(shape) > 5:
        raise ValueError(f"adaptive_grad_clip: which axes of a leaf of {len(shape)} are one unit's? Give axis.")
    return (0,) if len(shape) <= 3 else tuple(range(len(shape) - 1))
