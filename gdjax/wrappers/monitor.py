"""Measure the updates on their way."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.value import transform


@transform(any_dtype=True)
def monitor(measures: Any):
    """Keep measures of the updates in the state, and let the updates pass.

    State: `MonitorState(measurements, measure_states)`: the measures by name, zeros before the first update, and the
    states of those that are transforms. Measures get the updates in at least float32. Differs from Optax, where there
    are no measures before the first update: the state changes its type there, and `scan` cannot carry it.

    Args:
      measures: by name, functions of the updates, or transforms whose updates are the measure.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.monitor({"norm": gd.global_norm})
    >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> print(state.measurements["norm"])
    5.0
    """
    if not (hasattr(measures, "items") and all(map(_measures, measures.values()))):
        raise TypeError(f"monitor: measures must be a dict of functions or transforms by name, got {measures!r}.")
    taken = {name: _measure(x) for name, x in measures.items()}

    def init(params):
        states = tuple(tx.init(params) for tx in taken.values())
        like = jax.eval_shape(lambda states: _measured(params, states, params)[0], states)
        return optax.MonitorState(jax.tree.map(_zeros, like), states)

    def update(updates, state, params=None, **extra_args):
        return updates, optax.MonitorState(*_measured(updates, state.measure_states, params, **extra_args))

    def _measured(updates, states, params, **extra_args):
        wide, measures, new = tree.widen(updates), {}, []
        for (name, tx), state in zip(taken.items(), states, strict=True):
            measure, kept = tx.update(wide, state, params, **extra_args)
            measures[name] = jax.tree.map(lambda x: tree.as_dtype(x, x.dtype), measure)
            new.append(kept)
        return measures, tuple(new)

    return init, update


def _zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Return zeros of a type, sharded over Explicit axes as it is."""
    return jnp.zeros(like.shape, like.dtype, device=like.sharding)


def _measures(x: Any) -> bool:
    return callable(x) or isinstance(x, optax.GradientTransformation)


def _measure(x: Any) -> optax.GradientTransformationExtraArgs:
    if callable(x) and not isinstance(x, optax.GradientTransformation):
        of_updates: Any = lambda updates, params: x(updates)  # noqa: E731
        return optax.with_extra_args_support(optax.stateless(of_updates))
    return optax.with_extra_args_support(x)
