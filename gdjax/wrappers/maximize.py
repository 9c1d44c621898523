"""Maximize a function instead of minimizing it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax.value import transform
from gdjax.value.traits import walk

_NUMBERS = ("value", "grad")
"""Extra arguments that are a loss or a gradient."""
_FUNCTIONS = ("value_fn", "obj_fn")
"""Extra arguments that are functions from parameters to a loss."""
_BOUNDS = {
    "polyak_sgd": "f_min",
    "scale_by_polyak": "f_min",
    "momo": "lower_bound",
    "momo_adam": "lower_bound",
}
"""Parameters that are a lower bound of the loss, by factory."""


@transform(packable=True, shardable=True)
def maximize(inner: optax.GradientTransformation):
    r"""Maximize a function $f$: negate each gradient, so that the optimizer minimizes $-f$.

    The gradients are negated first, so that weight decay still shrinks the parameters, as with PyTorch's
    `maximize=True`. The extra arguments that report $f$ are also negated: `value`, `grad`, `value_fn` and
    `obj_fn`. So line searches, L-BFGS, `sam`, MoMo and `reduce_on_plateau` see the function that they minimize.
    Bounds in an optimizer's arguments, such as Polyak's `f_min`, refer to $-f$: pass $-\max f$.

    The metrics of `make_step` and the history of `fit` hold $f$ itself. `optax.value_and_grad_from_state` reads the
    state of a line search, which holds $-f$.

    State: that of the inner transform.

    Args:
      inner: the optimizer, with a positive learning rate.

    Raises:
      ValueError: if a bound (`f_min` of `polyak_sgd`, `lower_bound` of `momo`) is 0, its default.

    >>> import gdjax as gd
    >>> tx = gd.maximize(gd.sgd(0.1))
    >>> print(tx.update(2.0, tx.init(5.0))[0])
    0.2
    """
    _require_bounds(inner)

    def update(updates, state, params=None, **extra_args):
        return inner.update(_negate(updates), state, params, **_negate_reports(extra_args))

    def again(updates, state, params=None):
        return inner.again(_negate(updates), state, params)  # pyright: ignore

    def descend(updates, state, params, **extra_args):
        return inner.descend(_negate(updates), state, params, **_negate_reports(extra_args))  # pyright: ignore

    descends = inner.descends  # pyright: ignore[reportAttributeAccessIssue]
    return inner.init, update, again, descend if descends else None


def _require_bounds(inner: Any) -> None:
    """Reject a bound of 0: it is the default, and rarely a bound of $-f$."""
    for part in walk(inner):
        who = part.factory.__name__
        name = _BOUNDS.get(who, "")
        bound = part.arguments.get(name)
        if type(bound) in (int, float) and bound == 0 and math.copysign(1, bound) > 0:
            raise ValueError(
                f"maximize: {name} of {who} must be a lower bound of -f, got {bound}, its default. "
                f"Give {name}=-f_max, minus the largest value of f; write -0.0 where that is 0."
            )


def _negate_reports(extra_args: dict[str, Any]) -> dict[str, Any]:
    """Negate the extra arguments that report the function."""
    numbers = {name: _negate(extra_args[name]) for name in _NUMBERS if name in extra_args}
    functions = {name: _negate_function(extra_args[name]) for name in _FUNCTIONS if callable(extra_args.get(name))}
    return extra_args | numbers | functions


def _negate_function(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the negated result."""

    @functools.wraps(f)
    def negative(*args: Any, **kwargs: Any) -> Any:
        return _negate(f(*args, **kwargs))

    return negative


def _negate(tree: Any) -> Any:
    """Negate each leaf except those without a sign (booleans, gradients of integers)."""
    return jax.tree.map(lambda x: -x if _has_sign(x) else x, tree)


def _has_sign(x: Any) -> bool:
    dtype = jnp.result_type(x)
    return dtype not in (jnp.bool, jax.dtypes.float0)
