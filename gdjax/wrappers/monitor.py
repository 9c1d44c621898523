"""Record measures of the updates in the state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.value import transform


@transform(any_dtype=True)
def monitor(measures: Any):
    """Record measures of the updates in the state, and pass the updates unchanged.

    State: `MonitorState(measurements, measure_states)`: the measures by name, zeros before the first update, and the
    states of those that are transforms. Measures get the updates in at least float32. Differs from Optax, whose state
    has no measures before the first update, and so changes its type: `scan` cannot carry it.

    Args:
      measures: a dict by name, of functions of the updates or of transforms whose updates are the measure.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.monitor({"norm": gd.global_norm})
    >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> print(state.measurements["norm"])
    5.0
    """
    if not (hasattr(measures, "items") and all(map(_is_measure, measures.values()))):
        raise TypeError(f"monitor: measures must be a dict of functions or transforms by name, got {measures!r}.")
    transforms = {name: _as_transform(x) for name, x in measures.items()}

    def init(params):
        states = tuple(tx.init(params) for tx in transforms.values())
        like = jax.eval_shape(lambda states: measure(params, states, params)[0], states)
        return optax.MonitorState(jax.tree.map(_zeros, like), states)

    def update(updates, state, params=None, **extra_args):
        return updates, optax.MonitorState(*measure(updates, state.measure_states, params, **extra_args))

    def measure(updates, states, params, **extra_args):
        wide, measures, new = tree.widen(updates), {}, []
        for (name, tx), state in zip(transforms.items(), states, strict=True):
            measurement, new_state = tx.update(wide, state, params, **extra_args)
            measures[name] = jax.tree.map(lambda x: tree.as_dtype(x, x.dtype), measurement)
            new.append(new_state)
        return measures, tuple(new)

    return init, update


def _zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Return zeros of a type, with its sharding over Explicit axes."""
    return jnp.zeros(like.shape, like.dtype, device=like.sharding)


def _is_measure(x: Any) -> bool:
    return callable(x) or isinstance(x, optax.GradientTransformation)


def _as_transform(x: Any) -> optax.GradientTransformationExtraArgs:
    if callable(x) and not isinstance(x, optax.GradientTransformation):
        of_updates: Any = lambda updates, params: x(updates)  # noqa: E731
        return optax.with_extra_args_support(optax.stateless(of_updates))
    return optax.with_extra_args_support(x)
