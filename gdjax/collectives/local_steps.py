"""Many steps apart, then one together."""

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
    """Where the members were together last, and how far each is since then."""

    count: Any
    """Steps since they were together, int32 of shape (), from 0 to `every - 1`."""
    anchor: Any
    """Parameters of that time, the same on all members, shaped like the parameters, float32 at least."""
    inner_state: Any
    """Each member's own."""
    outer_state: Any
    """The same on all members."""


@transform(any_dtype=False, takes_local_grads=True, local_params=True)
def local_steps(inner: optax.GradientTransformation, outer: optax.GradientTransformation, every: int, axis_name: Any):
    r"""Descend apart on each member of an axis, and come together once every $H$ steps: local SGD, DiLoCo.

    Each member $i$ steps down its own gradients from its own parameters, $\theta_i \leftarrow \theta_i + u_i$ with $u$
    of `inner`. Every $H$-th step all go on from $\theta \leftarrow \theta + \mathrm{outer}(\theta - \frac{1}{N} \sum_i
    \theta_i)$, $\theta$ being where they were together last: the way gone is the outer gradient. `outer=sgd(1.0)` is
    the mean of the members, local SGD; `outer=sgd(0.7, momentum=0.9, nesterov=True)` and `inner=adamw(...)` are DiLoCo.
    With $H = 1$, `inner=sgd(rate)` and `outer=sgd(1.0)` it is synchronous descent. What to evaluate and to keep is
    `state.anchor`; by `gd.descend` (as `make_step` steps) members that come together are that, to the bit.

    State: `LocalStepsState(count, anchor, inner_state, outer_state)`, 4 bytes a parameter (8 in float64) beside those
    of `inner` and `outer`. On the wire: an all-reduce of every leaf, once every $H$ steps, and nothing in between: it
    stands in a branch (under `vmap` with a count of its own for every member, both branches run).
    Source: Stich 2019, algorithm 1 (https://arxiv.org/abs/1805.09767); Douillard et al. 2023, algorithm 1
    (https://arxiv.org/abs/2311.08105).

    Args:
      inner: what each member steps by. Its state stays the member's own.
      outer: what all step by together.
      every: $H$, an integer of 1 at least.
      axis_name: the axis (of `vmap`, `pmap` or `shard_map`) whose members each have parameters of their own, the same
        at the beginning.

    Raises:
      ValueError: if `every` is no such number, the axis is not bound, the type of a gradient says that it is the same
        on all members, or `update` is called without `params`.

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
            f"local_steps: inner must leave gradients each member's own over {axis_name!r}, and it takes their mean "
            f"over {', '.join(map(repr, taken))} at every step: leave that out."
        )

    def init(params):
        axes.size(axis_name)  # it must be there
        own = axes.mark_varying(params, axis_name)
        return LocalStepsState(
            count=jnp.zeros((), jnp.int32),
            anchor=(anchor := tree.copies(params)),
            inner_state=inner.init(own),
            outer_state=outer.init(anchor),
        )

    def update(updates, state, params=None, **extra_args):
        require_params("local_steps", params)
        here, state = descend(updates, state, params, **extra_args)
        return tree.cast_like(jax.tree.map(jnp.subtract, *tree.widen((here, params))), updates), state

    def descend(updates, state, params, **extra_args):
        require_local_grads("local_steps", updates, axis_name)
        moved, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        here = jax.tree.map(jnp.add, *tree.widen((params, moved)))
        count = jnp.asarray(optax.safe_increment(state.count))

        def together():
            gone = jax.tree.map(lambda a, p: a - axes.pmean(p, axis_name), state.anchor, here)
            stepped, outer_state = outer.update(gone, state.outer_state, state.anchor)
            anchor = jax.tree.map(jnp.add, state.anchor, stepped)
            return axes.mark_varying(anchor, axis_name), anchor, outer_state

        def apart():
            return here, state.anchor, state.outer_state

        meet = count >= every
        here, anchor, outer_state = jax.lax.cond(meet, together, apart)
        kept = LocalStepsState(jnp.where(meet, 0, count), anchor, inner_state, outer_state)
        return tree.cast_like(here, params), kept

    return init, update, None, descend
