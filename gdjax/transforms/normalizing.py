"""Give the gradient another size or mean, and mend what is not a number."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, norms, tree
from gdjax.squares import multiply_in_turn
from gdjax.value import Positive, Scalar, stateless, transform


@transform(packable=True, shardable=True)
def normalize(axis_name: Any = None):
    r"""Divide the gradient by its norm, that of all leaves as one vector: $g / \lVert g \rVert$, and 0 at 0.

    Stateless: 0 bytes a parameter. Differs from Optax: a zero gradient gives 0, where Optax gives NaN, and its
    derivative is finite.

    Args:
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.normalize().update(jnp.array([3.0, 4.0]), ())[0])
    [0.6 0.8]
    """

    def normalized(updates, params):
        root, scale = norms.global_scaled_norm(updates, axis_name)
        inverse = 1 / jnp.where(root == 0, 1, root)
        return tree.cast_like(jax.tree.map(lambda g: multiply_in_turn(g, scale, inverse), tree.widen(updates)), updates)

    return stateless(normalized)


@transform(packable=True, shardable=True)
def normalize_by_update_norm(scale_factor: Scalar = 1.0, eps: Positive = 1e-6, axis_name: Any = None):
    r"""Give the gradient one norm: $c\, g / (\lVert g \rVert + \epsilon)$, the norm that of all leaves as one vector.

    Stateless: 0 bytes a parameter.

    Args:
      scale_factor: $c$, any number.
      eps: $\epsilon$, in (0, inf].
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.normalize_by_update_norm(eps=1e-9).update(jnp.array([3.0, 4.0]), ())[0])
    [0.6 0.8]
    """

    def normalized(updates, params):
        root, scale = norms.global_scaled_norm(updates, axis_name)
        ratio = tree.scalar(scale_factor, root) / (root + tree.scalar(eps, root) * scale)
        return tree.cast_like(jax.tree.map(lambda g: multiply_in_turn(g, scale, ratio), tree.widen(updates)), updates)

    return stateless(normalized)


@transform
def centralize(axis_name: Any = None, dim: int = 0):
    r"""Subtract from a matrix of gradients the mean of each of its rows: $g - \bar g$, over all axes but the first.

    Vectors and scalars stay as they are. Stateless: 0 bytes a parameter.
    Source: Yong et al. 2020, equation 1 (https://arxiv.org/abs/2004.01461). Differs from the paper, as Optax does: the
    mean there is one of each output unit, whose weights are a column of a kernel `[inputs, outputs]`.

    Args:
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.
      dim: the dimension along which leaves are divided; another for some by `by_path`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.centralize().update(jnp.array([[1.0, 3.0]]), ())[0])
    [[-1.  1.]]
    """

    def centred(updates, params):
        leaves, treedef = jax.tree.flatten(tree.widen(updates))
        matrices = [g for g in leaves if g.ndim > 1]
        rows = [tuple(range(1, g.ndim)) for g in matrices]
        over = [axes.reduction_axes(g, of, axis_name, dim) for g, of in zip(matrices, rows, strict=True)]
        means = iter(norms.means_along(matrices, rows, over, keepdims=True))
        return tree.cast_like(treedef.unflatten(g - next(means) if g.ndim > 1 else g for g in leaves), updates)

    return stateless(centred)


@transform(shardable=True)
def zero_nans(axis_name: Any = None):
    """Replace NaN by zero, and say in which leaves there was one.

    State: `ZeroNansState(found_nan)`, 1 byte a leaf: whether the last gradient held a NaN.

    Args:
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

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
