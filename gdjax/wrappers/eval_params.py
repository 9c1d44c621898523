"""The parameters to evaluate at, where they are not those that are trained."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState

from gdjax import tree
from gdjax.collectives.local_steps import LocalStepsState
from gdjax.value import misplaced
from gdjax.value.diagnose import require_optimizer
from gdjax.wrappers.lookahead import SlowState
from gdjax.wrappers.params_ema import ParamsEmaState, ema_of
from gdjax.wrappers.schedule_free import mean_of

KEPT = {
    LocalStepsState: ("anchor", lambda p, anchor, state: anchor),
    ParamsEmaState: ("ema", ema_of),
    ScheduleFreeState: ("z", mean_of),
    SlowState: ("slow", lambda p, slow, state: slow),
}
"""What a state keeps of every parameter, and what this and the parameter are read as."""


def eval_params(tx: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """Read the parameters to evaluate, or to keep, out of an optimizer's state.

    They are the mean of `params_ema`, the $x$ of `schedule_free`, the slow parameters of `lookahead` or the anchor of
    `local_steps`, wherever within the optimizer these stand; the outermost counts. Under every other optimizer, and at
    leaves that are masked out, they are the parameters themselves.

    Args:
      tx: the optimizer, a value or one of Optax.
      state: its state.
      params: the parameters that are trained.

    Returns:
      A tree like `params`, in their dtypes; where it is they themselves, their very buffers.

    Raises:
      ValueError: if the state is not one of this optimizer and these parameters, or two means stand side by side.

    >>> import gdjax as gd
    >>> tx = gd.sgd(0.1)
    >>> gd.eval_params(tx, tx.init(5.0), 5.0)
    5.0
    """
    require_optimizer("eval_params", tx)
    if hasattr(state, "opt_state"):
        raise TypeError(f"eval_params: state must be that of the optimizer, got a {type(state).__name__}: {_OF_STATE}.")
    if misplaced.of_init(params):
        raise TypeError("eval_params: the state came last: call eval_params(tx, state, params).")
    expected = jax.eval_shape(tx.init, params)
    if where := tree.difference(state, expected, "the state given", "the one that init makes"):
        raise ValueError(f"eval_params: the state does not belong to these params: {where}.")
    nodes = [node for node in jax.tree.leaves(state, is_leaf=_keeps) if _keeps(node)]
    if any(sum(of_leaf) > 1 for of_leaf in zip(*(_knows(node, params) for node in nodes), strict=True)):
        raise ValueError("eval_params: the optimizer keeps two means of one parameter side by side; put one around it.")
    for node in nodes:
        params = _read(node, params)
    return params


_OF_STATE = "call eval_params(tx, state.opt_state, state.params)"


def _keeps(node):
    return type(node) in KEPT


def _knows(state, params):
    """Return for each parameter whether a state holds a value for it: a mask may leave out many at once."""
    return jax.tree.leaves(_mapped(lambda kept, p: jax.tree.map(lambda _: not tree.is_masked(kept), p), state, params))


def _read(state, params):
    """Return the parameters, those for which a state holds a value replaced by it."""
    _, f = KEPT[type(state)]

    def leaf(kept, p):
        if tree.is_masked(kept):
            return p
        if jnp.shape(kept) != jnp.shape(p):
            must = "a mean must be shaped like its parameter"
            raise ValueError(
                f"eval_params: {must}, got shapes {jnp.shape(kept)} and {jnp.shape(p)}: put it around shard_update, "
                "which gives what is within it parts of leaves."
            )
        wide = tree.as_dtype(p, tree.wide(jnp.result_type(p)))
        return tree.as_dtype(f(wide, tree.as_dtype(kept, wide.dtype), state), jnp.result_type(p))

    return _mapped(leaf, state, params)


def _mapped(f, state, params):
    field, _ = KEPT[type(state)]
    return jax.tree.map(f, getattr(state, field), params, is_leaf=tree.is_masked)
