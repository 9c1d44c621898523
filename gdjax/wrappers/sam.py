"""SAM: sharpness-aware minimization."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import norms, tree
from gdjax.axes import AxisName
from gdjax.squares import multiply_in_turn
from gdjax.value import NonNegative, transform
from gdjax.value.diagnose import require_params
from gdjax.value.traits import refuse_example_grads, refuse_local_grads


@transform(any_dtype=False)
def sam(inner: optax.GradientTransformation, rho: NonNegative = 0.05, axis_name: AxisName = None):
    r"""Step by the gradient at the worst nearby point: $g' = \nabla f(p + \rho\, g / \lVert g \rVert)$.

    The inner transform gets $g'$ and the unchanged parameters. One call of `update(grads, state, params, value_fn=f)`
    is one step, and costs one more gradient.

    State: that of the inner transform.
    Source: Foret et al. 2020, algorithm 1 (https://arxiv.org/abs/2010.01412). Differs from Optax, whose parameters are
    those of the ascent at every other call, with the true ones in the state.

    It must be the outermost transform, `sam(by_path(...))`, since the loss needs all parameters. If leaves are sharded
    over an axis, `value_fn` takes the shards of one device, and its gradient must be the shards of the gradient.

    Args:
      inner: the transform that gets $g'$.
      rho: $\rho$, the radius, in [0, inf).
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `update` is called without `params` or `value_fn`.

    >>> import gdjax as gd
    >>> tx = gd.sam(gd.sgd(1.0), rho=0.5)
    >>> updates, state = tx.update(4.0, tx.init(2.0), 2.0, value_fn=lambda p: p**2)
    >>> print(updates)
    -5.0
    """
    refuse_local_grads("sam", inner)
    refuse_example_grads("sam", inner)

    def update(updates, state, params=None, *, value_fn: Callable[[Any], jax.Array] | None = None, **extra_args):
        require_params("sam", params)
        if not callable(value_fn):
            raise ValueError("sam needs the loss: call update(updates, state, params, value_fn=loss).")
        if any(map(tree.is_masked, jax.tree.leaves(params, is_leaf=tree.is_masked))):
            raise ValueError("sam must go around what selects parameters, sam(by_path(...)): the loss needs them all.")
        root, scale = norms.global_scaled_norm(updates, axis_name)
        factor = tree.scalar(rho, root) / jnp.where(root > 0, root, 1)
        ascended = jax.tree.map(
            lambda p, g: p + multiply_in_turn(g, scale, factor).astype(p.dtype), tree.widen(params), tree.widen(updates)
        )
        new_grads = jax.tree.map(jnp.conj, jax.grad(value_fn)(tree.cast_like(ascended, params)))
        extra_args["value_fn"] = value_fn
        return inner.update(tree.cast_like(new_grads, updates), state, params, **extra_args)

    return inner.init, update
