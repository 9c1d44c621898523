"""Accumulate gradients over several calls, then take one step."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, tree
from gdjax.value import AccumulatorDType, Interval, ScalarOrSchedule, at, transform
from gdjax.value.traits import local_grad_axes, refuse_example_grads, transforms_taking
from gdjax.weighted_means import require_scalar_weight, scale_by_factor


class AccumulateState(NamedTuple):
    """State of `accumulate`: the sum of gradients since the last step, and the inner state."""

    mini_step: Any
    """The number of gradients in the sum, int32 of shape (), from 0 to `every - 1`."""
    gradient_step: Any
    """The number of steps, int32 of shape ()."""
    inner_state: Any
    scaled_grads: Any
    """Sum of weighted gradients times $2^{-e}$, where $2^{e - 1} \\leq W < 2^e$ and $W$ is `weight`; unscaled in
    float16. Shaped like the parameters."""
    weight: Any
    """The sum of their weights, a float of shape (); a gradient without a weight has weight 1."""


@transform(any_dtype=False, shardable=True)
def accumulate(
    inner: optax.GradientTransformation,
    every: Annotated[ScalarOrSchedule, Interval("[1, inf)")],
    accumulator_dtype: AccumulatorDType = None,
):
    r"""Take one step with the mean of $k$ gradients, and none in between.

    The first $k - 1$ calls add up gradients and return zero updates. The next call runs the inner transform with
    $\frac{1}{k} \sum g$, the parameters and the extra arguments of that call. The sum is scaled by a power of two, so
    that it is finite if all gradients are; a float16 accumulator is not scaled.

    With `update(..., weight=w)`, a scalar, the step uses the weighted mean $\sum w g / \sum w$, by tokens for example.
    The mean is 0 if all weights are 0. A gradient of weight 0 adds nothing, even if it is not finite. Around a
    transform that reduces over an axis (`mean_over`), $w$ is the weight of each device, and all sums also run over
    devices. Give a weight at every call, or at none.

    State: `AccumulateState(mini_step, gradient_step, inner_state, scaled_grads, weight)`, 4 bytes per parameter (8 in
    float64), or those of `accumulator_dtype`, plus the inner state. Differs from `optax.MultiSteps`, which runs the
    inner transform and rounds the mean to the accumulator's dtype at every call.

    Args:
      inner: the transform that takes the steps.
      every: $k$, a whole number in [1, inf), or a schedule of it over the steps.
      accumulator_dtype: the dtype of the sum; by default that of the parameters, at least float32.

    Raises:
      ValueError: if `every` is not a whole number, or `weight` is not a scalar. Also if `weight` varies over an axis by
        its type, and the gradients do not.

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
            weight=axes.cast_varying(jnp.zeros((), float), _common_varying_axes(scaled_grads)),
        )

    def update(updates, state, params=None, *, weight=None, **extra_args):
        count = jnp.asarray(optax.safe_increment(state.mini_step))
        w = _accumulate_weight(1.0 if weight is None else weight, state.weight)
        weights = state.weight + w
        k = at(every, state.gradient_step)

        def total(updates, state):
            return jax.tree.map(add_to_sum, updates, state.scaled_grads)

        def add_to_sum(g, scaled_sum):
            g, old = tree.widen((g, scaled_sum))
            old_scale, scale = (sum_scale(weight_sum, scaled_sum.dtype) for weight_sum in (state.weight, weights))
            term = tree.scalar(scale, g) * g if weight is None else scale_by_factor(w * scale, g)
            return tree.cast_like(tree.scalar(scale / old_scale, old) * old + term, scaled_sum)

        def mean_of(total):
            divisor = jnp.where(weights == 0, 1.0, weights * sum_scale(weights, total.dtype))
            total = tree.widen(total)
            return total / tree.scalar(divisor, total)

        def step(updates, state):
            mean = jax.tree.map(mean_of, total(updates, state))
            takes_weight = weight is not None and transforms_taking(inner, "weight")
            inner_args = {**extra_args, "weight": weights} if takes_weight else extra_args
            new_updates, inner_state = inner.update(mean, state.inner_state, params, **inner_args)
            return tree.cast_like(new_updates, updates), AccumulateState(
                mini_step=jnp.zeros_like(count),
                gradient_step=optax.safe_increment(state.gradient_step),
                inner_state=tree.cast_like(inner_state, state.inner_state),
                scaled_grads=jax.tree.map(jnp.zeros_like, state.scaled_grads),
                weight=jnp.zeros_like(weights),
            )

        def wait(updates, state):
            like = jax.eval_shape(step, updates, state)[0] if over else updates
            new = state._replace(mini_step=count, scaled_grads=total(updates, state), weight=weights)
            return jax.tree.map(axes.zeros_varying_like, like, updates), new

        return jax.lax.cond(count.astype(float) >= k, step, wait, updates, state)

    return init, update


def _common_varying_axes(grads):
    """Return the axes over which all leaves of a tree vary by type."""
    varying = [axes.varying_axes(leaf) for leaf in jax.tree.leaves(grads)]
    return frozenset.intersection(*varying) if varying else frozenset()


def sum_scale(weight, dtype):
    """Return a power of two that scales a sum of a given weight to the range of its terms, without rounding."""
    if jnp.finfo(dtype).nexp < 8:  # float16 terms would lose bits near its smallest numbers
        return jnp.ones_like(weight)
    _, exponent = jnp.frexp(jax.lax.stop_gradient(weight))
    return jnp.ldexp(jnp.ones_like(weight), -jnp.clip(exponent, -99, 99))


def _accumulate_weight(weight, like):
    """Cast a weight to the type of the sum of weights."""
    w = jnp.asarray(require_scalar_weight("accumulate", weight), like.dtype)
    if extra := axes.varying_axes(w) - axes.varying_axes(like):
        raise ValueError(
            f"accumulate: weight must be invariant over {', '.join(sorted(map(repr, extra)))}, as the types of the "
            "gradients are, got a weight that varies over it. Sum it over the axis: jax.lax.psum(weight, axis_name)."
        )
    return axes.cast_varying(w, axes.varying_axes(like))
