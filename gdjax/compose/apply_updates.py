"""The last lines of a step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.explaining import explain_usage
from gdjax.value import GradientTransform, misplaced
from gdjax.value.diagnose import require_optimizer
from gdjax.value.traits import require_weight_effect


@explain_usage("descend")
def descend(
    tx: optax.GradientTransformation, grads: Any, state: Any, params: Any, **extra_args: Any
) -> tuple[Any, Any]:
    r"""Take a step: $p + \mathrm{tx}(g)$ and the new state, as `tx.update` and `apply_updates` make them.

    Where a transform has a step of its own, it is taken: `shard_update` gathers parameters in the place of updates,
    with no tree of these in memory, and `local_steps` brings all members to the same bits.

    Args:
      tx: the optimizer, a value or one of Optax.
      grads: a tree like the parameters.
      state: that of `tx`.
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
def apply_updates(params: Any, updates: Any) -> Any:
    """Add updates to parameters: $p + u$, in the dtype of the parameters.

    A leaf whose update is `None`, or the gradient of an integer (float0), stays as it is.

    Args:
      params: a tree of arrays.
      updates: a tree like it.

    Raises:
      ValueError: if the trees or the shapes of two leaves differ, with the path.

    >>> import jax.numpy as jnp
    >>> print(apply_updates(jnp.array([5.0]), jnp.array([-0.6])))
    [4.4]
    """
    try:
        return jax.tree.map(_moved, params, updates, is_leaf=lambda x: x is None)
    except (TypeError, ValueError) as error:
        if what := misplaced.of_apply(params, updates):
            raise ValueError(f"apply_updates: {what}.") from error
        where = tree.difference(params, updates, "params", "updates")
        if where is None:
            raise
        raise ValueError(f"apply_updates: params and updates differ {where}.") from error


def _moved(param: Any, update: Any) -> Any:
    if param is None or update is None or getattr(update, "dtype", None) == jax.dtypes.float0:
        return param
    if jnp.shape(param) != jnp.shape(update):
        raise ValueError
    return tree.as_dtype(param + tree.typed_like(update, param), jnp.result_type(param))
