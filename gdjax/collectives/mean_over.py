"""The mean of the gradients of many."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, tree
from gdjax.collectives.local_grads import require_axis_name, require_local_grads
from gdjax.value import transform
from gdjax.weighted_means import scale_for_mean


@transform(packable=True, takes_local_grads=True)
def mean_over(axis_name: Any, dtype: Any = None):
    r"""Take the mean of the gradients over a named axis: $\frac{1}{N} \sum_i g_i$.

    Given `update(..., weight=w)`, a scalar of each member, it is $\sum_i w_i g_i / \sum_i w_i$, zero where no weight
    is: that of uneven last batches, filled up, weighted by the number of their true examples. The axis is that of
    `vmap`, `pmap` or `shard_map`, or a tuple of several.

    Stateless: 0 bytes a parameter. On the wire: an all-reduce of every leaf, 4 bytes a number (8 in float64), or those
    of `dtype`.

    Args:
      axis_name: the axis whose members each have a gradient of their own.
      dtype: in which gradients are sent and added; by default their own, float32 at least.

    Raises:
      ValueError: if the axis is not bound, or the type of a gradient says that it is the same on all members: under
        `shard_map(check_vma=True)` that of an invariant parameter is the sum over the axis already. `make_step` with
        its `axis_name` takes care of that.

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
        own = updates if weight is None else scale_for_mean("mean_over", updates, weight, axis_name)
        return tree.cast_like(jax.tree.map(lambda g: axes.pmean(g, axis_name, dtype), own), updates), state

    return optax.init_empty_state, update
