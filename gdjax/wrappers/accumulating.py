"""One step of many gradients."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, tree
from gdjax.value import Interval, ScalarOrSchedule, at, transform
from gdjax.value.traits import reduced_over, refuse_examples


class AccumulateState(NamedTuple):
    """What has been summed since the last step, and the state of the transform that takes the steps."""

    mini_step: Any
    """Gradients in the sum, int32 of shape (), from 0 to `every - 1`."""
    gradient_step: Any
    """Steps taken, int32 of shape ()."""
    inner_state: Any
    acc_grads: Any
    """Their sum, shaped like the parameters."""


@transform(any_dtype=False, parts=True)
def accumulate(
    inner: optax.GradientTransformation,
    every: Annotated[ScalarOrSchedule, Interval("[1, inf)")],
    accumulator_dtype: Any = None,
):
    r"""Take one step of the mean of $k$ gradients, and none in between.

    At the first $k - 1$ calls the gradient is summed, the updates are zero and the inner transform does not run; at
    the next it gets $\frac{1}{k} \sum g$, the parameters, and the extra arguments of this call.

    State: `AccumulateState(mini_step, gradient_step, inner_state, acc_grads)`, 4 bytes a parameter (8 in float64), or
    those of `accumulator_dtype`, beside the inner one. Differs from `optax.MultiSteps`, which runs the inner transform
    at every call, and rounds the mean at every call to the dtype it is kept in.

    Args:
      inner: what takes the steps.
      every: $k$, a whole number in [1, inf), or a schedule of it by steps taken.
      accumulator_dtype: the dtype of the sum; by default that of the parameters, float32 at least.

    >>> import gdjax as gd
    >>> tx = gd.accumulate(gd.sgd(1.0), every=2)
    >>> state = tx.init(0.0)
    >>> for gradient in (1.0, 3.0):
    ...     update, state = tx.update(gradient, state)
    ...     print(update)
    0.0
    -2.0
    """
    if isinstance(every, float) and every % 1:
        raise ValueError(f"accumulate: every must be a whole number of gradients, got {every}.")
    refuse_examples("accumulate", inner)

    def init(params):
        return AccumulateState(
            mini_step=jnp.zeros((), jnp.int32),
            gradient_step=jnp.zeros((), jnp.int32),
            inner_state=inner.init(params),
            acc_grads=axes.vary(tree.accumulators(params, 0, accumulator_dtype), reduced_over(inner)),
        )

    def update(updates, state, params=None, **extra_args):
        count = state.mini_step + 1
        k = at(every, state.gradient_step)

        def total(updates, state):
            both = jax.tree.map(jnp.add, tree.widen(state.acc_grads), tree.widen(updates))
            return tree.cast_like(both, state.acc_grads)

        def step(updates, state):
            mean = jax.tree.map(lambda s: s / tree.scalar(count.astype(float), s), tree.widen(total(updates, state)))
            stepped, kept = inner.update(mean, state.inner_state, params, **extra_args)
            return tree.cast_like(stepped, updates), AccumulateState(
                mini_step=jnp.zeros_like(count),
                gradient_step=optax.safe_increment(state.gradient_step),
                inner_state=tree.cast_like(kept, state.inner_state),
                acc_grads=jax.tree.map(jnp.zeros_like, state.acc_grads),
            )

        def wait(updates, state):
            like = jax.eval_shape(step, updates, state)[0] if reduced_over(inner) else updates
            kept = state._replace(mini_step=count, acc_grads=total(updates, state))
            return jax.tree.map(axes.zeros, like, updates), kept

        return jax.lax.cond(count.astype(float) >= k, step, wait, updates, state)

    return init, update
