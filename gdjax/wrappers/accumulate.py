"""One step of many gradients."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, tree
from gdjax.value import AccumulatorDType, Interval, ScalarOrSchedule, at, transform
from gdjax.value.traits import local_grad_axes, refuse_example_grads, transforms_taking
from gdjax.weighted_means import require_scalar_weight, scale_by_factor


class AccumulateState(NamedTuple):
    """The sum of gradients since the last step, and the state of the inner transform."""

    mini_step: Any
    """Gradients in the sum, int32 of shape (), from 0 to `every - 1`."""
    gradient_step: Any
    """Steps taken, int32 of shape ()."""
    inner_state: Any
    scaled_grads: Any
    """Sum of weighted gradients times $2^{-e}$, where $2^{e - 1} \\leq W < 2^e$ and $W$ is `weight`; unscaled in
    float16. Shaped like the parameters."""
    weight: Any
    """The sum of their weights, a float of shape (); a gradient without one counts as 1."""


@transform(any_dtype=False, shardable=True)
def accumulate(
    inner: optax.GradientTransformation,
    every: Annotated[ScalarOrSchedule, Interval("[1, inf)")],
    accumulator_dtype: AccumulatorDType = None,
):
    r"""Take one step of the mean of $k$ gradients, and none in between.

    At the first $k - 1$ calls the gradient is summed, the updates are zero and the inner transform does not run; at
    the next it gets $\frac{1}{k} \sum g$, the parameters, and the extra arguments of this call. The sum is stored
    scaled by a power of two, so it is finite where all gradients are, except in a float16 accumulator.

    Given `update(..., weight=w)`, a scalar, it takes the weighted mean $\sum w g / \sum w$: of tokens, say, where
    sequences differ in length. The mean is 0 if all weights are 0; a gradient of weight 0 adds nothing, even if it is
    not finite. Around a transform that reduces over an axis (`mean_over`), $w$ is each member's own, and all sums run
    over members too: give a weight at every call, or at none.

    State: `AccumulateState(mini_step, gradient_step, inner_state, scaled_grads, weight)`, 4 bytes per parameter (8 in
    float64), or those of `accumulator_dtype`, beside the inner one. Differs from `optax.MultiSteps`, which runs the
    inner transform at every call, and rounds the mean at every call to the dtype it is kept in.

    Args:
      inner: what takes the steps.
      every: $k$, a whole number in [1, inf), or a schedule of it by steps taken.
      accumulator_dtype: the dtype of the sum; by default that of the parameters, at least float32.

    Raises:
      ValueError: if `every` is not a whole number, or `weight` is not a scalar. Also if the type of `weight` says
        that it differs over an axis, and the gradients do not.

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
    refuse_example_grads("accumulate", inner)

    over = local_grad_axes(inner)

    def init(params):
        scaled_grads = axes.mark_varying(tree.accumulators(params, 0, accumulator_dtype), over)
        return AccumulateState(
            mini_step=jnp.zeros((), jnp.int32),
            gradient_step=jnp.zeros((), jnp.int32),
            inner_state=inner.init(params),
            scaled_grads=scaled_grads,
            weight=axes.cast_varying(jnp.zeros((), float), _shared(scaled_grads)),
        )

    def update(updates, state, params=None, *, weight=None, **extra_args):
        count = jnp.asarray(optax.safe_increment(state.mini_step))
        own = _weight(1.0 if weight is None else weight, state.weight)
        weights = state.weight + own
        k = at(every, state.gradient_step)

        def total(updates, state):
            return jax.tree.map(added, updates, state.scaled_grads)

        def added(g, kept):
            g, old = tree.widen((g, kept))
            before, now = (sum_scale(w, kept.dtype) for w in (state.weight, weights))
            counted = tree.scalar(now, g) * g if weight is None else scale_by_factor(own * now, g)
            return tree.cast_like(tree.scalar(now / before, old) * old + counted, kept)

        def mean_of(total):
            divisor = jnp.where(weights == 0, 1.0, weights * sum_scale(weights, total.dtype))
            total = tree.widen(total)
            return total / tree.scalar(divisor, total)

        def step(updates, state):
            mean = jax.tree.map(mean_of, total(updates, state))
            takes = weight is not None and transforms_taking(inner, "weight")
            told = {**extra_args, "weight": weights} if takes else extra_args
            stepped, kept = inner.update(mean, state.inner_state, params, **told)
            return tree.cast_like(stepped, updates), AccumulateState(
                mini_step=jnp.zeros_like(count),
                gradient_step=optax.safe_increment(state.gradient_step),
                inner_state=tree.cast_like(kept, state.inner_state),
                scaled_grads=jax.tree.map(jnp.zeros_like, state.scaled_grads),
                weight=jnp.zeros_like(weights),
            )

        def wait(updates, state):
            like = jax.eval_shape(step, updates, state)[0] if over else updates
            kept = state._replace(mini_step=count, scaled_grads=total(updates, state), weight=weights)
            return jax.tree.map(axes.zeros_varying_like, like, updates), kept

        return jax.lax.cond(count.astype(float) >= k, step, wait, updates, state)

    return init, update


def _shared(grads):
    """Return the axes over which all leaves of a tree vary by their types."""
    differing = [axes.varying_axes(leaf) for leaf in jax.tree.leaves(grads)]
    return frozenset.intersection(*differing) if differing else frozenset()


def sum_scale(weight, dtype):
    """Return the power of two that keeps a sum of so much weight in the range of its terms: it changes no bit."""
    if jnp.finfo(dtype).nexp < 8:  # the terms would lose bits at the lower end of float16
        return jnp.ones_like(weight)
    _, exponent = jnp.frexp(jax.lax.stop_gradient(weight))
    return jnp.ldexp(jnp.ones_like(weight), -jnp.clip(exponent, -99, 99))


def _weight(weight, like):
    """Cast a weight to the type of a sum of weights."""
    own = jnp.asarray(require_scalar_weight("accumulate", weight), like.dtype)
    if further := axes.varying_axes(own) - axes.varying_axes(like):
        raise ValueError(
            f"accumulate: weight must be the same on all members of {', '.join(sorted(map(repr, further)))}, as the "
            "gradients are by their types, got each member's own: sum it over the axis by jax.lax.psum."
        )
    return axes.cast_varying(own, axes.varying_axes(like))
