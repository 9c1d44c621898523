"""Hyperparameters in the state, as in Optax; parameters of a gdjax factory that are not numbers stay out of it."""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import optax

from gdjax.value import Factory


def inject_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: jnp.dtype | None = None,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Return a factory whose numbers live in the state: `optax.inject_hyperparams`.

    A value of gdjax does not need it: its numbers are arguments of `jit` already.

    Args:
      inner_factory: a factory of this package, or a function of Optax.
      static_args: names of parameters that stay out of the state, in addition to those of a factory of this package
        that hold neither a number nor a schedule.
      hyperparam_dtype: the dtype of the numbers in the state; by default that of the parameters.

    >>> import gdjax as gd
    >>> tx = gd.inject_hyperparams(gd.sgd)(learning_rate=0.5)
    >>> print(tx.init(1.0).hyperparams["learning_rate"])
    0.5
    """
    return optax.inject_hyperparams(inner_factory, _static(inner_factory, static_args), hyperparam_dtype)


def inject_stateful_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: jnp.dtype | None = None,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Return a factory whose numbers live in the state, schedules with states of their own among them.

    Like `inject_hyperparams`, for `optax.inject_stateful_hyperparams`.

    >>> import gdjax as gd
    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):  # Optax says to use inject_hyperparams
    ...     tx = gd.inject_stateful_hyperparams(gd.sgd)(learning_rate=gd.linear_schedule(0.5, 0.0, 10))
    >>> print(tx.init(1.0).hyperparams["learning_rate"])
    0.5
    """
    return optax.inject_stateful_hyperparams(inner_factory, _static(inner_factory, static_args), hyperparam_dtype)


def _static(factory: Any, given: str | Iterable[str]) -> set[str]:
    """Return the parameters that stay out of the state."""
    names = {given} if isinstance(given, str) else set(given)
    if not isinstance(factory, Factory):
        return names
    return names | {name for name, slot in factory.slots.items() if not {"number", "schedule"} & slot.takes}
