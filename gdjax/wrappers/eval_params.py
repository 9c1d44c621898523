"""Read the parameters to evaluate, if they differ from those in training."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState

from gdjax import tree
from gdjax.collectives.local_steps import LocalStepsState
from gdjax.tree import Tree
from gdjax.value import misplaced
from gdjax.value.diagnose import require_optimizer
from gdjax.wrappers.lookahead import SlowState
from gdjax.wrappers.params_ema import ParamsEmaState, read_ema
from gdjax.wrappers.schedule_free import read_x

READERS = {
    LocalStepsState: ("anchor", lambda p, anchor, state: anchor),
    ParamsEmaState: ("ema", read_ema),
    ScheduleFreeState: ("z", read_x),
    SlowState: ("slow", lambda p, slow, state: slow),
}
"""For each class of state: the field with a value per parameter, and the function that reads the result from it."""


def eval_params(tx: optax.GradientTransformation, state: Tree, params: Tree) -> Tree:
    """Read the parameters to evaluate, or to keep, out of an optimizer's state.

    They are the average of `params_ema`, the $x$ of `schedule_free`, the slow parameters of `lookahead` or the anchor
    of `local_steps`, anywhere within the optimizer; the outermost one counts. For all other optimizers, and for
    leaves that are masked out, they are the parameters themselves.

    Args:
      tx: the optimizer, a value or one of Optax.
      state: the state of `tx`.
      params: the parameters in training.

    Returns:
      A tree like `params`, in the same dtypes; leaves that do not differ share their buffers.

    Raises:
      ValueError: if the state does not belong to this optimizer and these parameters, or if two averages of one
        parameter stand side by side.

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
    nodes = [node for node in jax.tree.leaves(state, is_leaf=_is_readable) if _is_readable(node)]
    if any(sum(flags) > 1 for flags in zip(*(_has_values(node, params) for node in nodes), strict=True)):
        raise ValueError("eval_params: the optimizer keeps two means of one parameter side by side; put one around it.")
    for node in nodes:
        params = _read(node, params)
    return params


_OF_STATE = "call eval_params(tx, state.opt_state, state.params)"


def _is_readable(node):
    return type(node) in READERS


def _has_values(state, params):
    """Return for each parameter whether a state holds a value for it; a mask may leave out a whole subtree."""
    return jax.tree.leaves(
        _map_values(lambda value, p: jax.tree.map(lambda _: not tree.is_masked(value), p), state, params)
    )


def _read(state, params):
    """Return the parameters, with those replaced for which a state holds a value."""
    _, read = READERS[type(state)]

    def leaf(value, p):
        if tree.is_masked(value):
            return p
        if jnp.shape(value) != jnp.shape(p):
            must = "an average must be shaped like its parameter"
            raise ValueError(
                f"eval_params: {must}, got shapes {jnp.shape(value)} and {jnp.shape(p)}. Put it around shard_update, "
                "which passes shards of leaves to the transform within it."
            )
        wide = tree.as_dtype(p, tree.wide(jnp.result_type(p)))
        return tree.as_dtype(read(wide, tree.as_dtype(value, wide.dtype), state), jnp.result_type(p))

    return _map_values(leaf, state, params)


def _map_values(f, state, params):
    field, _ = READERS[type(state)]
    return jax.tree.map(f, getattr(state, field), params, is_leaf=tree.is_masked)
