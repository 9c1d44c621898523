"""Skip steps whose gradient is not finite."""

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, tree
from gdjax.axes import AxisName
from gdjax.value import transform
from gdjax.value.traits import local_grad_axes


@transform(shardable=True)
def apply_if_finite(inner: optax.GradientTransformation, max_consecutive_errors: int, axis_name: AxisName = None):
    """Skip steps whose gradient is not finite: the updates are zero, and the inner state is unchanged.

    More such gradients in a row than allowed are passed on, so that the run visibly fails.

    State: `ApplyIfFiniteState(notfinite_count, last_finite, total_notfinite, inner_state)`, 9 bytes in all plus
    the inner state. Differs from Optax: updates and state keep the dtypes of the gradients and of the state. In Optax
    the two branches may differ in dtype, which raises.

    Args:
      inner: the transform that takes the steps.
      max_consecutive_errors: the largest number of steps to skip in a row, at least 0.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded. All
        devices skip the same steps, also if the inner transform takes the mean over an axis.

    Raises:
      ValueError: if `max_consecutive_errors` is negative.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.apply_if_finite(gd.sgd(1.0), max_consecutive_errors=3)
    >>> state = tx.init(0.0)
    >>> for gradient in (2.0, jnp.nan):
    ...     update, state = tx.update(gradient, state)
    ...     print(update, state.total_notfinite)
    -2.0 0
    0.0 1
    """
    if isinstance(max_consecutive_errors, float) or not hasattr(max_consecutive_errors, "__index__"):
        must = "max_consecutive_errors must be an integer"
        raise TypeError(f"apply_if_finite: {must}, got {max_consecutive_errors!r}.")
    if max_consecutive_errors < 0:
        raise ValueError(f"apply_if_finite: max_consecutive_errors must be at least 0, got {max_consecutive_errors}.")

    over = tuple(dict.fromkeys([*axes.names(axis_name), *local_grad_axes(inner)]))

    def init(params):
        def zero():
            return jnp.zeros((), jnp.int32)

        return optax.ApplyIfFiniteState(zero(), jnp.ones((), bool), zero(), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        finite = jnp.asarray(True)
        for leaf in jax.tree.leaves(updates):
            finite &= jnp.isfinite(leaf).all()
        if over:
            finite = ~axes.any_over_axis(~finite, over)
        in_a_row = jnp.where(finite, 0, optax.safe_increment(state.notfinite_count))
        total = jnp.where(finite, state.total_notfinite, optax.safe_increment(state.total_notfinite))

        def step(updates, inner_state):
            new_updates, new_state = inner.update(updates, inner_state, params, **extra_args)
            return tree.cast_like(new_updates, updates), tree.cast_like(new_state, inner_state)

        def skip(updates, inner_state):
            like = jax.eval_shape(step, updates, inner_state)[0] if over else updates
            return jax.tree.map(axes.zeros_varying_like, like, updates), inner_state

        runs = finite | (in_a_row > max_consecutive_errors)
        new_updates, inner_state = jax.lax.cond(runs, step, skip, updates, state.inner_state)
        return new_updates, optax.ApplyIfFiniteState(in_a_row, finite, total, inner_state)

    return init, update
