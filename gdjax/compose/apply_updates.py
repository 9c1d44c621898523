"""Apply updates to parameters, and take a whole step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.explaining import explain_usage
from gdjax.tree import Tree
from gdjax.value import GradientTransform, misplaced
from gdjax.value.diagnose import require_optimizer
from gdjax.value.traits import require_weight_effect


@explain_usage("descend")
def descend(
    tx: optax.GradientTransformation, grads: Tree, state: Tree, params: Tree, **extra_args: object
) -> tuple[Tree, Tree]:
    r"""Take a step: $p + \mathrm{tx}(g)$ and the new state, as `tx.update` and `apply_updates` make them.

    A transform may define its own step. `shard_update` gathers parameters instead of updates, which saves a tree of
    updates in memory, and `local_steps` gives all devices bitwise equal parameters.

    Args:
      tx: the optimizer, a value or one of Optax.
      grads: a tree like the parameters.
      state: the state of `tx`.
      params: a tree of arrays.
      **extra_args: as `tx.update` takes them.

    >>> import gdjax as gd
    >>> tx = gd.sgd(0.5)
    >>> params, state = gd.descend(tx, 2.0, tx.init(5.0), 5.0)
    >>> print(params)
    4.0
    """
    require_optimizer("descend", tx)
    if isinstance(tx, GradientTransform) and tx.descends:
        return tx.descend(grads, state, params, **extra_args)
    require_weight_effect("descend", tx, extra_args)
    updates, state = optax.with_extra_args_support(tx).update(grads, state, params, **extra_args)
    return apply_updates(params, updates), state


@explain_usage("apply_updates")
def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add updates to parameters: $p + u$, in the dtype of the parameters.

    A leaf is unchanged if its update is `None` or the gradient of an integer (float0).

    Args:
      params: a tree of arrays.
      updates: a tree like `params`.

    Raises:
      ValueError: if the trees or the shapes of two leaves differ; the message gives the path.

    >>> import jax.numpy as jnp
    >>> print(apply_updates(jnp.array([5.0]), jnp.array([-0.6])))
    [4.4]
    """
    try:
        return jax.tree.map(_add_update, params, updates, is_leaf=lambda x: x is None)
    except (TypeError, ValueError) as error:
        if what := misplaced.of_apply(params, updates):
            raise ValueError(f"apply_updates: {what}.") from error
        where = tree.difference(params, updates, "params", "updates")
        if where is None:
            raise
        raise ValueError(f"apply_updates: params and updates differ {where}.") from error


def _add_update(param: Any, update: Any) -> Any:
    if param is None or update is None or getattr(update, "dtype", None) == jax.dtypes.float0:
        return param
    if jnp.shape(param) != jnp.shape(update):
        raise ValueError
    return tree.as_dtype(param + tree.typed_like(update, param), jnp.result_type(param))
