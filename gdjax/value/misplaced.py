"""Detection of arguments of `init` and `update` that are in the wrong order, not called or not unpacked."""

from typing import Any

import jax
import optax

from gdjax.tree import Tree
from gdjax.value.printing import brief

_CALL = "call tx.update(grads, state, params)"
_UNPACK = "unpack it: updates, state = tx.update(grads, state, params)"


def of_update(
    tx: optax.GradientTransformation | optax.MultiSteps, updates: Tree, state: Tree, params: Tree
) -> str | None:
    """Say which argument of a failed update is in the wrong place, if that is clear.

    Args:
      tx: a transform.
      updates: its first argument.
      state: its second.
      params: its third, or `None`.
    """
    return _uncalled(updates, state) or _swapped(tx, updates, state, params) or _paired(tx, updates, state, params)


def of_init(params: object) -> str | None:
    """Say what was given for parameters: a state of an optimizer, of a descent, or an optimizer."""
    if _is_optimizer(params):
        return f"init takes the parameters, got an optimizer, {brief(params)}"
    if hasattr(params, "opt_state"):
        return f"init takes the parameters, got a {type(params).__name__}; give its params"
    if name := _state_in(params):
        return f"init takes the parameters, got the state of an optimizer ({name})"
    return None


def of_apply(params: object, updates: object) -> str | None:
    """Say what was given for updates: the pair that `tx.update` returned, or a state."""
    if type(updates) is tuple and len(updates) == 2 and _alike(updates[0], params):
        return f"updates is the pair that tx.update returned; {_UNPACK}"
    if _state_in(updates):
        return "updates is the state of an optimizer; tx.update returns updates first: updates, state = tx.update(...)"
    if type(params) is tuple and len(params) == 2 and _alike(params[0], updates):
        return "params is the pair that tx.update returned; params come first: apply_updates(params, updates)"
    return None


def _uncalled(updates: Any, state: Any) -> str | None:
    """Find a function where its result is meant, or an optimizer where its state is."""
    if _is_optimizer(state):
        return "state must be what tx.init(params) returns, got an optimizer"
    if _is_function(state):
        return f"state must be what tx.init(params) returns, got a function, {brief(state)}; call it"
    if _is_function(updates):
        return f"updates must be gradients, got a function, {brief(updates)}; call it: jax.grad(loss)(params)"
    for name, given in (("state", state), ("updates", updates)):
        if hasattr(given, "opt_state"):
            way = "give its opt_state" if name == "state" else _CALL
            return f"{name} is a {type(given).__name__}; {way}"
    return None


def _swapped(tx: Any, updates: Any, state: Any, params: Any) -> str | None:
    """Find arguments that fit in another order."""
    if _fits(tx, updates, state):
        return None
    if _fits(tx, state, updates) or (_state_in(updates) and not _state_in(state)):
        return f"the state came first: {_CALL}"
    if params is not None and _fits(tx, updates, params):
        return f"the parameters came before the state: {_CALL}"
    if state is None:
        return "state must be what tx.init(params) returns, got None"
    if jax.tree.leaves(state) and _alike(state, updates):
        return f"the parameters, or gradients, came in the place of the state: {_CALL}"
    return None


def _paired(tx: Any, updates: Any, state: Any, params: Any) -> str | None:
    """Find pairs that were not unpacked."""
    pair = type(state) is tuple and len(state) == 2 and _alike(state[0], updates)
    if pair and not _fits(tx, updates, state) and _fits(tx, updates, state[1]):
        return f"state is the pair that tx.update returned; {_UNPACK}"
    if params is None or type(updates) is not tuple or len(updates) != 2 or _alike(updates, params):
        return None
    if _alike(updates[1], params):
        return "updates is a pair; unpack it: value, grads = jax.value_and_grad(loss)(params)"
    if _alike(updates[0], params):
        return "updates is a pair; unpack it: grads, aux = jax.grad(..., has_aux=True)(params)"
    return None


def _fits(tx: Any, params: Any, state: Any) -> bool:
    """Return whether a state has the structure of one for these parameters."""
    try:
        return jax.tree.structure(jax.eval_shape(tx.init, params)) == jax.tree.structure(state)
    except Exception:  # an init may fail in any way on something else
        return False


def _alike(one: Any, other: Any) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other)


def _is_optimizer(x: Any) -> bool:
    return isinstance(x, optax.GradientTransformation)


def _is_function(x: Any) -> bool:
    """Return whether something is a function, and not a callable pytree as modules are."""
    return callable(x) and jax.tree.structure(x) == jax.tree.structure(0)


def _state_in(tree: Any) -> str | None:
    """Return the name of the first state of Optax or gdjax that something is, or holds side by side."""
    parts = tree if type(tree) in (tuple, list) else [tree]
    return next((type(part).__name__ for part in parts if _is_state(type(part))), None)


def _is_state(kind: type) -> bool:
    ours = kind.__module__.split(".")[0] in ("gdjax", "optax")
    return ours and hasattr(kind, "_fields") and kind.__name__.endswith("State")
