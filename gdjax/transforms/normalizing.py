"""Normalize, centralize or clean the gradient."""

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, norms, tree
from gdjax.axes import AxisName
from gdjax.squares import multiply_in_turn
from gdjax.value import Positive, Scalar, stateless, transform


@transform(packable=True, shardable=True, upcast=True)
def normalize(axis_name: AxisName = None):
    r"""Divide the gradient by its norm over all leaves as one vector: $g / \lVert g \rVert$, and 0 at 0.

    Stateless: 0 bytes per parameter. Differs from Optax: a zero gradient gives 0 with a finite derivative, where Optax
    gives NaN.

    Args:
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.normalize().update(jnp.array([3.0, 4.0]), ())[0])
    [0.6 0.8]
    """

    def normalized(updates, params):
        root, scale = norms.global_scaled_norm(updates, axis_name)
        inverse = 1 / jnp.where(root == 0, 1, root)
        return jax.tree.map(lambda g: multiply_in_turn(g, scale, inverse), updates)

    return stateless(normalized)


@transform(packable=True, shardable=True, upcast=True)
def normalize_by_update_norm(scale_factor: Scalar = 1.0, eps: Positive = 1e-6, axis_name: AxisName = None):
    r"""Scale the gradient to a norm: $c\, g / (\lVert g \rVert + \epsilon)$, over all leaves as one vector.

    Stateless: 0 bytes per parameter.

    Args:
      scale_factor: $c$, any number.
      eps: $\epsilon$, in (0, inf].
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.normalize_by_update_norm(eps=1e-9).update(jnp.array([3.0, 4.0]), ())[0])
    [0.6 0.8]
    """

    def normalized(updates, params):
        root, scale = norms.global_scaled_norm(updates, axis_name)
        ratio = tree.scalar(scale_factor, root) / (root + tree.scalar(eps, root) * scale)
        return jax.tree.map(lambda g: multiply_in_turn(g, scale, ratio), updates)

    return stateless(normalized)


@transform(upcast=True)
def centralize(axis_name: AxisName = None, dim: int = 0):
    r"""Subtract from each row of a matrix of gradients its mean: $g - \bar g$, over all axes but the first.

    Vectors and scalars pass unchanged. Stateless: 0 bytes per parameter.
    Source: Yong et al. 2020, equation 1 (https://arxiv.org/abs/2004.01461). Differs from the paper, as Optax does: the
    paper takes the mean of each output unit, which is a column of a kernel `[inputs, outputs]`.

    Args:
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.
      dim: the dimension along which leaves are sharded; use `by_path` if it differs between leaves.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.centralize().update(jnp.array([[1.0, 3.0]]), ())[0])
    [[-1.  1.]]
    """

    def centralized(updates, params):
        leaves, treedef = jax.tree.flatten(updates)
        matrices = [g for g in leaves if g.ndim > 1]
        rows = [tuple(range(1, g.ndim)) for g in matrices]
        over = [axes.reduction_axes(g, dims, axis_name, dim) for g, dims in zip(matrices, rows, strict=True)]
        means = iter(norms.means_along(matrices, rows, over, keepdims=True))
        return treedef.unflatten(g - next(means) if g.ndim > 1 else g for g in leaves)

    return stateless(centralized)


@transform(shardable=True)
def zero_nans(axis_name: AxisName = None):
    """Replace NaN by zero, and record which leaves held one.

    State: `ZeroNansState(found_nan)`, 1 byte a leaf: whether the last gradient held a NaN.

    Args:
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.zero_nans()
    >>> updates, state = tx.update(jnp.array([jnp.nan, 2.0]), tx.init(jnp.zeros(2)))
    >>> print(updates, state.found_nan)
    [0. 2.] True
    """

    def init(params):
        return optax.ZeroNansState(found_nan=jax.tree.map(lambda p: jnp.zeros((), bool), params))

    def update(updates, state, params=None):
        found = axes.any_over_axis(jax.tree.map(lambda g: jnp.any(jnp.isnan(g)), updates), axis_name)
        return jax.tree.map(lambda g: jnp.where(jnp.isnan(g), 0, g), updates), optax.ZeroNansState(found)

    return init, update
