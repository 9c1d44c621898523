"""Clip the gradient, by element or by norm."""

import jax
import jax.numpy as jnp

from gdjax import axes, norms, tree
from gdjax.axes import AxisName
from gdjax.squares import clip_to_norm, roots
from gdjax.value import NonNegative, Positive, stateless, stateless_rereading, transform
from gdjax.value.diagnose import require_params


@transform(elementwise=True, upcast=True)
def clip(max_delta: Positive):
    r"""Clip each element to $[-\delta, \delta]$, the real and the imaginary part separately.

    Stateless: 0 bytes per parameter.

    Args:
      max_delta: $\delta$, in (0, inf].

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.clip(1.0)
    >>> print(tx.update(jnp.array([-3.0, 0.5]), tx.init(jnp.zeros(2)))[0])
    [-1.   0.5]
    """

    def clip_leaves(updates, params):
        return jax.tree.map(lambda g: _clip_leaf(g, max_delta), updates)

    return stateless(clip_leaves)


def _clip_leaf(g, bound):
    if jnp.iscomplexobj(g):
        return jax.lax.complex(_clip_leaf(g.real, bound), _clip_leaf(g.imag, bound))
    return jnp.clip(g, -bound, bound)


@transform(packable=True, shardable=True, upcast=True)
def clip_by_global_norm(max_norm: Positive, axis_name: AxisName = None):
    r"""Scale the gradient down if its norm exceeds a bound: $g \min(1, c / \lVert g \rVert)$.

    The norm is taken over all leaves as one vector, and accumulated in float32 or wider. Each leaf is multiplied by one
    scalar, not divided by the norm: XLA fuses a product into its consumers, but writes the quotients to memory.

    Stateless: 0 bytes per parameter. Source: Pascanu et al. 2013, algorithm 1 (https://arxiv.org/abs/1211.5063).

    Args:
      max_norm: $c$, in (0, inf].
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.clip_by_global_norm(1.0)
    >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))[0])
    [0.6 0.8]
    """

    def clip_leaves(updates, params):
        norm = norms.global_scaled_norm(updates, axis_name)
        return jax.tree.map(lambda g: clip_to_norm(g, norm, max_norm), updates)

    return stateless(clip_leaves)


@transform(rereads_updates=True, upcast=True)
def clip_by_block_rms(threshold: Positive, axis_name: AxisName = None):
    r"""Scale each leaf down if its root mean square exceeds a bound: $u \min(1, d / \mathrm{RMS}(u))$.

    Stateless: 0 bytes per parameter. Source: Shazeer and Stern 2018, section 6 (https://arxiv.org/abs/1804.04235).

    Args:
      threshold: $d$, in (0, inf].
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.clip_by_block_rms(1.0).update(jnp.array([2.0, -2.0, 2.0]), ())[0])
    [ 1. -1.  1.]
    """

    def clip_leaves(updates, params, recompute):
        rms = norms.leaf_scaled_rms(updates, axis_name, recompute)
        u = recompute(roots(rms)) if recompute else updates
        return jax.tree.map(lambda u, rms: clip_to_norm(u, rms, threshold), u, rms)

    return stateless_rereading(clip_leaves)


@transform(upcast=True)
def adaptive_grad_clip(
    clipping: Positive,
    eps: NonNegative = 1e-3,
    axis: int | tuple[int, ...] | None = None,
    axis_name: AxisName = None,
    dim: int = 0,
):
    r"""Scale a unit's gradient down if its norm exceeds a fraction of the norm of the unit's weights.

    $g_i \min(1, \lambda \max(\lVert w_i \rVert, \epsilon) / \lVert g_i \rVert)$ for each unit $i$.

    Stateless: 0 bytes per parameter. Source: Brock et al. 2021, equation 3 (https://arxiv.org/abs/2102.06171).

    Args:
      clipping: $\lambda$, in (0, inf].
      eps: $\epsilon$, in [0, inf): lets weights that start at zero move.
      axis: the axes along which the weights of one unit lie. The default for a leaf of 2 or 3 axes
        is the first; of 4 or 5 axes, all but the last; of a vector, its only axis.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.
      dim: the dimension along which leaves are sharded; use `by_path` if it differs between leaves.

    Raises:
      ValueError: if `update` is called without `params`, if a leaf has more than 5 axes and `axis` is not given, or if
        a sharded leaf has no dimension `dim`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> w, g = jnp.array([[3.0], [4.0]]), jnp.array([[6.0], [8.0]])
    >>> print(gd.adaptive_grad_clip(0.1).update(g, (), w)[0].T)
    [[0.3 0.4]]
    """
    for number in axis if isinstance(axis, tuple) else (axis,):
        if not (number is None or type(number) is int):
            raise TypeError(f"adaptive_grad_clip: axis must be an integer, a tuple of them or None, got {axis!r}.")

    def clip_leaves(updates, params):
        require_params("adaptive_grad_clip", params)

        def clip_leaf(g, w_norm, g_norm):
            return clip_to_norm(g, g_norm, clipping * jnp.maximum(w_norm.norm(), eps))

        w_norms, g_norms = _unit_norms((tree.widen(params), updates), axis, axis_name, dim)
        return jax.tree.map(clip_leaf, updates, w_norms, g_norms)

    return stateless(clip_leaves)


def _unit_norms(trees, axis, axis_name, dim):
    """Return the norm of each unit of each leaf; the axes of a unit keep length 1."""
    xs, treedef = jax.tree.flatten(trees)
    dims = [_unit_axes(axes.global_shape(x, axis_name, dim)) if axis is None else axis for x in xs]
    dims = [along if isinstance(along, tuple) else (along,) for along in dims]
    over = [axes.reduction_axes(x, along, axis_name, dim) for x, along in zip(xs, dims, strict=True)]
    return treedef.unflatten(norms.scaled_norms_along(xs, dims, over))


def _unit_axes(shape):
    """Return the axes along which the weights of one unit lie."""
    if sum(length != 1 for length in shape) <= 1:
        return tuple(range(len(shape)))
    if len(shape) > 5:
        must = "a leaf must have at most 5 axes"
        raise ValueError(f"adaptive_grad_clip: {must}, got {len(shape)}. Pass axis, the axes of one unit's weights.")
    return (0,) if len(shape) <= 3 else tuple(range(len(shape) - 1))
