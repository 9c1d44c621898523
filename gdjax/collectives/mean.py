"""The mean of the gradients of many."""

from typing import Any

import jax
import optax

from gdjax import axes
from gdjax.collectives.own import require_name, require_own
from gdjax.value import transform


@transform(flat=True, reduces=True)
def mean_over(axis_name: Any, dtype: Any = None):
    r"""Take the mean of the gradients over a named axis: $\frac{1}{N} \sum_i g_i$.

    Given `update(..., weight=w)`, a scalar of each member, it is $\sum_i w_i g_i / \sum_i w_i$, zero where no weight
    is: that of uneven last batches, filled up, weighted by the number of their true examples. The axis is that of
    `vmap`, `pmap` or `shard_map`, or a tuple of several.

    Stateless: 0 bytes a parameter. On the wire: an all-reduce of every leaf, 4 bytes a number (8 in float64).

    Args:
      axis_name: the axis whose members each have a gradient of their own.
      dtype: in which gradients are sent and added; by default their own, float32 at least.

    Raises:
      ValueError: if the axis is not bound, or the type of a gradient says that it is the same on all members: under
        `shard_map(check_vma=True)` that of an invariant parameter is the sum over the axis already. `make_step` with
        its `axis_name` takes care of that.

    >>> import gdjax as gd, jax.numpy as jnp
    >>> tx = gd.mean_over("data")
    >>> print(jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="data")(jnp.array([1.0, 3.0])))
    [2. 2.]
    """
    require_name("mean_over", axis_name)

    def update(updates, state, params=None, *, weight=None):
        require_own("mean_over", updates, axis_name)
        if weight is None:
            return jax.tree.map(lambda g: axes.mean(g, axis_name, dtype), updates), state
        share = axes.share(weight, axis_name)
        weighed = jax.tree.map(lambda g: axes.mean(axes.weigh(g, share), axis_name, dtype), updates)
        return weighed, state

    return optax.init_empty_state, update
