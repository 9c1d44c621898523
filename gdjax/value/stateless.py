"""Transforms that remember nothing."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def stateless(f: Callable[[Any, Any], Any]) -> tuple[Callable[..., Any], ...]:
    """`(init, update, again)` of a function `f(updates, params)`; it refuses the state of another transform."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if jax.tree.leaves(state):
            raise ValueError(f"the state is that of another transform: none was expected, got {type(state).__name__}")
        return f(updates, params), state

    return optax.init_empty_state, update, lambda updates, state, params=None: f(updates, params)
