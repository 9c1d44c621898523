"""Transforms without state."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def stateless(f: Callable[..., Any], rereads_updates: bool = False) -> tuple[Callable[..., Any], ...]:
    """Return `(init, update, again)` of a function `f(updates, params)`; it refuses the state of another transform.

    Args:
      f: a function; it takes `recompute` as its third argument if it rereads updates.
      rereads_updates: as in `transform`.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _require_no_state(state)
        return f(updates, params), state

    def update_rereading(updates: Any, state: Any, params: Any = None, recompute: Any = None) -> tuple[Any, Any]:
        _require_no_state(state)
        return f(updates, params, recompute), state

    def again(updates: Any, state: Any, params: Any = None) -> Any:
        return f(updates, params, None) if rereads_updates else f(updates, params)

    return optax.init_empty_state, update_rereading if rereads_updates else update, again


def _require_no_state(state: Any) -> None:
    if jax.tree.leaves(state):
        raise ValueError(f"the state is that of another transform: none was expected, got {type(state).__name__}")
