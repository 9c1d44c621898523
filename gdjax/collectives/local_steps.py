"""Local steps on each device, synchronized every so often: local SGD and DiLoCo."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import axes, tree
from gdjax.collectives.local_grads import require_axis_name, require_local_grads
from gdjax.value import transform
from gdjax.value.diagnose import require_count, require_params
from gdjax.value.traits import local_grad_axes, refuse_example_grads


class LocalStepsState(NamedTuple):
    """State of `local_steps`."""

    count: Any  # a tuple has a method of this name, so a type checker accepts no other type
    """Steps since the last synchronization, int32 of shape (), from 0 to `every - 1`."""
    anchor: optax.Params
    """$\\theta$, the parameters at the last synchronization, the same on all devices, float32 or wider."""
    inner_state: optax.OptState
    """Per-device state of `inner`."""
    outer_state: optax.OptState
    """State of `outer`, the same on all devices."""


@transform(any_dtype=False, takes_local_grads=True, local_params=True)
def local_steps(
    inner: optax.GradientTransformation, outer: optax.GradientTransformation, every: int, axis_name: axes.AxisName
):
    r"""Take steps on each device alone, and synchronize the parameters every $H$ steps: local SGD, DiLoCo.

    Device $i$ steps from its own parameters by its own gradients, $\theta_i \leftarrow \theta_i + u_i$ with $u_i$ of
    `inner`. Every $H$-th step, all devices continue from
    $\theta \leftarrow \theta + \mathrm{outer}(\theta - \frac{1}{N} \sum_i \theta_i)$, where $\theta$ is the anchor, the
    parameters at the last synchronization. The distance covered since then is the outer gradient.

    `outer=sgd(1.0)` continues from the mean of the devices: local SGD. DiLoCo is `inner=adamw(...)` with
    `outer=sgd(0.7, momentum=0.9, nesterov=True)`. With `every=1`, `inner=sgd(rate)` and `outer=sgd(1.0)` it is
    synchronous descent.

    Evaluate and save `state.anchor`. With `gd.descend` (as in `make_step`), synchronized parameters are equal to it bit
    for bit.

    State: `LocalStepsState(count, anchor, inner_state, outer_state)`, 4 bytes a parameter (8 in float64) besides the
    states of `inner` and `outer`. On the wire: an all-reduce of every leaf, once every $H$ steps. It is in a branch of
    `cond`; under `vmap`, if the count is mapped too, both branches run.
    Source: Stich 2019, algorithm 1 (https://arxiv.org/abs/1805.09767); Douillard et al. 2023, algorithm 1
    (https://arxiv.org/abs/2311.08105).

    Args:
      inner: the optimizer of each device; its state is per-device.
      outer: the optimizer of the anchor.
      every: $H$, an integer of at least 1.
      axis_name: the axis of `vmap`, `pmap` or `shard_map` over which parameters are per-device. They start equal.

    Raises:
      ValueError: if `every` is below 1, the axis is not bound, the type of a gradient is invariant over it, or `update`
        is called without `params`.

    >>> import jax.numpy as jnp
    >>> import jax
    >>> import gdjax as gd
    >>> tx = gd.local_steps(gd.sgd(0.5), gd.sgd(1.0), every=2, axis_name="data")
    >>> def descended(target):
    ...     w, state = jnp.zeros(()), tx.init(jnp.zeros(()))
    ...     for _ in range(2):
    ...         updates, state = tx.update(w - target, state, w)
    ...         w = gd.apply_updates(w, updates)
    ...     return w
    >>> print(jax.vmap(descended, axis_name="data")(jnp.array([0.0, 4.0])))
    [1.5 1.5]
    """
    require_count("local_steps", "every", every)
    axis_name = require_axis_name("local_steps", axis_name)
    refuse_example_grads("local_steps", outer, "outer")
    if taken := {*local_grad_axes(inner)} & {*axes.names(axis_name)}:
        raise ValueError(
            f"local_steps: inner must keep gradients per-device over {axis_name!r}, and it takes their mean over "
            f"{', '.join(map(repr, taken))} at every step. Leave that out."
        )

    def init(params):
        axes.require_bound(axis_name)
        local = axes.mark_varying(params, axis_name)
        return LocalStepsState(
            count=jnp.zeros((), jnp.int32),
            anchor=(anchor := tree.copies(params)),
            inner_state=inner.init(local),
            outer_state=outer.init(anchor),
        )

    def update(updates, state, params=None, **extra_args):
        require_params("local_steps", params)
        new_params, state = descend(updates, state, params, **extra_args)
        return tree.cast_like(jax.tree.map(jnp.subtract, *tree.widen((new_params, params))), updates), state

    def descend(updates, state, params, **extra_args):
        require_local_grads("local_steps", updates, axis_name)
        inner_updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        local = jax.tree.map(jnp.add, *tree.widen((params, inner_updates)))
        count = jnp.asarray(optax.safe_increment(state.count))

        def synchronize():
            outer_grads = jax.tree.map(lambda a, p: a - axes.pmean(p, axis_name), state.anchor, local)
            outer_updates, outer_state = outer.update(outer_grads, state.outer_state, state.anchor)
            anchor = jax.tree.map(jnp.add, state.anchor, outer_updates)
            return axes.mark_varying(anchor, axis_name), anchor, outer_state

        def stay_local():
            return local, state.anchor, state.outer_state

        is_due = count >= every
        new_params, anchor, outer_state = jax.lax.cond(is_due, synchronize, stay_local)
        new_state = LocalStepsState(jnp.where(is_due, 0, count), anchor, inner_state, outer_state)
        return tree.cast_like(new_params, params), new_state

    return init, update, None, descend
