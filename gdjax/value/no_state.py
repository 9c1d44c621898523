"""Transforms without state."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def stateless(f: Callable[[Any, Any], Any]) -> tuple[Callable[..., Any], ...]:
    """Return `(init, update, again)` of a function `f(updates, params)`; it refuses the state of another transform."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _require_no_state(state)
        return f(updates, params), state

    return optax.init_empty_state, update, lambda updates, state, params=None: f(updates, params)


def stateless_rereading(f: Callable[[Any, Any, Any], Any]) -> tuple[Callable[..., Any], ...]:
    """Return the same of a function `f(updates, params, recompute)` that rereads updates, as `transform` says."""

    def update(updates: Any, state: Any, params: Any = None, recompute: Any = None) -> tuple[Any, Any]:
        _require_no_state(state)
        return f(updates, params, recompute), state

    return optax.init_empty_state, update, lambda updates, state, params=None: f(updates, params, None)


def _require_no_state(state: Any) -> None:
    if jax.tree.leaves(state):
        raise ValueError(f"the state is that of another transform: none was expected, got {type(state).__name__}")
