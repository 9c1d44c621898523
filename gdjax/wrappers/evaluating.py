"""The parameters to evaluate at, where they are not those that are trained."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState

from gdjax import tree
from gdjax.value.diagnose import difference
from gdjax.wrappers.averaging import ParamsEmaState, SlowState, ema_of
from gdjax.wrappers.schedule_free import mean_of

KEPT = {
    ParamsEmaState: ("ema", ema_of),
    ScheduleFreeState: ("z", mean_of),
    SlowState: ("slow", lambda p, slow, state: slow),
}
"""What a state keeps of every parameter, and what this and the parameter are read as."""


def eval_params(tx: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """Read the parameters to evaluate, or to keep, out of an optimizer's state.

    They are the mean of `params_ema`, the $x$ of `schedule_free` or the slow parameters of `lookahead`, wherever within
    the optimizer these stand; the outermost counts. Under every other optimizer, and at leaves that are masked out,
    they are the parameters themselves.

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
    expected = jax.eval_shape(tx.init, params)
    if where := difference(state, expected, "the state given", "the one that init makes"):
        raise ValueError(f"eval_params: the state does not belong to these params: {where}.")
    nodes = [node for node in jax.tree.leaves(state, is_leaf=_keeps) if _keeps(node)]
    known = [jax.tree.leaves(_known(node), is_leaf=_is_masked) for node in nodes]
    if any(sum(not _is_masked(kept) for kept in of_leaf) > 1 for of_leaf in zip(*known, strict=False)):
        raise ValueError("eval_params: the optimizer keeps two means of one parameter side by side; put one around it.")
    for node in nodes:
        params = _read(node, params)
    return params


def _keeps(node):
    return type(node) in KEPT


def _known(node):
    return getattr(node, KEPT[type(node)][0])


def _is_masked(node):
    return isinstance(node, optax.MaskedNode)


def _read(state, params):
    _, f = KEPT[type(state)]

    def leaf(kept, p):
        if _is_masked(kept):
            return p
        wide = tree.as_dtype(p, tree.wide(jnp.result_type(p)))
        return tree.as_dtype(f(wide, tree.as_dtype(kept, wide.dtype), state), jnp.result_type(p))

    return jax.tree.map(leaf, _known(state), params, is_leaf=_is_masked)
