"""Mean of gradients over a named axis."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from gdjax import axes, tree
from gdjax.collectives.local_grads import require_axis_name, require_local_grads
from gdjax.value import transform
from gdjax.weighted_means import scale_for_mean


@transform(packable=True, takes_local_grads=True)
def mean_over(axis_name: axes.AxisName, dtype: DTypeLike | None = None):
    r"""Take the mean of the gradients over a named axis: $\frac{1}{N} \sum_i g_i$.

    With `update(..., weight=w)`, a scalar on each device, it is the weighted mean $\sum_i w_i g_i / \sum_i w_i$, and 0
    if all weights are 0. Use it for uneven last batches: pad them, and weight each by its number of real examples.

    Stateless: 0 bytes a parameter. On the wire: an all-reduce of every leaf, 4 bytes a number (8 in float64), or the
    bytes of `dtype`.

    Args:
      axis_name: the axis of `vmap`, `pmap` or `shard_map` over which gradients are per-device, or a tuple of names.
      dtype: the dtype in which gradients are sent and added; by default that of the gradients, float32 or wider.

    Raises:
      ValueError: if the axis is not bound, or the type of a gradient is invariant over it. Under
        `shard_map(check_vma=True)` the gradient of an invariant parameter is already the sum over the axis;
        `make_step(axis_name=)` handles that.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> tx = gd.mean_over("data")
    >>> print(jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="data")(jnp.array([1.0, 3.0])))
    [2. 2.]
    """
    axis_name = require_axis_name("mean_over", axis_name)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"mean_over: dtype must be floating or complex, got {dtype}.")

    def update(updates, state, params=None, *, weight=None):
        require_local_grads("mean_over", updates, axis_name)
        local = updates if weight is None else scale_for_mean("mean_over", updates, weight, axis_name)
        return tree.cast_like(jax.tree.map(lambda g: axes.pmean(g, axis_name, dtype), local), updates), state

    return optax.init_empty_state, update
