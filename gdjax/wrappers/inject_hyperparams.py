"""Keep hyperparameters in the state, as Optax does."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.concrete import concrete_value
from gdjax.value import Factory
from gdjax.value.arguments import refusal, require_dtype
from gdjax.value.printing import brief, nearest

P = ParamSpec("P")
T = TypeVar("T")


def inject_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: jnp.dtype | None = None,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Return a factory whose numbers are part of the state, as `optax.inject_hyperparams` does.

    A gdjax transform does not need it: its numbers already are arguments of `jit`.

    Args:
      inner_factory: a factory of gdjax, or a function of Optax.
      static_args: names of parameters to keep out of the state. Parameters of a gdjax factory that hold neither a
        number nor a schedule are always kept out.
      hyperparam_dtype: the dtype of the numbers in the state; by default that of the parameters.

    >>> import gdjax as gd
    >>> tx = gd.inject_hyperparams(gd.sgd)(learning_rate=0.5)
    >>> print(tx.init(1.0).hyperparams["learning_rate"])
    0.5
    """
    injects = optax.inject_hyperparams
    return _inject("inject_hyperparams", injects, inner_factory, static_args, hyperparam_dtype)


def inject_stateful_hyperparams(
    inner_factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: jnp.dtype | None = None,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Return a factory whose numbers are part of the state, including schedules that have a state.

    Like `inject_hyperparams`, for `optax.inject_stateful_hyperparams`.

    >>> import gdjax as gd
    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):  # Optax says to use inject_hyperparams
    ...     tx = gd.inject_stateful_hyperparams(gd.sgd)(learning_rate=gd.linear_schedule(0.5, 0.0, 10))
    >>> print(tx.init(1.0).hyperparams["learning_rate"])
    0.5
    """
    injects = optax.inject_stateful_hyperparams
    return _inject("inject_stateful_hyperparams", injects, inner_factory, static_args, hyperparam_dtype)


def _inject(who: str, injects: Callable[..., Any], factory: Any, static_args: Any, dtype: Any) -> Callable[..., Any]:
    """Call Optax's function with a factory, and check the arguments of both."""
    static = _static_names(who, factory, static_args, dtype)
    return _check_arguments(who, factory, injects(factory, static, dtype))


def _static_names(who: str, factory: Any, given: Any, dtype: Any) -> set[str]:
    """Return the names of parameters that stay out of the state."""
    if not callable(factory):
        made = isinstance(factory, optax.GradientTransformation)
        name = getattr(getattr(factory, "factory", None), "__name__", "optax.adam")
        hint = f"; give the factory itself, uncalled: {who}({name})" if made else ""
        raise TypeError(f"{who}: inner_factory must be a factory, got {brief(factory)}{hint}.")
    if not (isinstance(given, str) or (isinstance(given, Iterable) and not isinstance(given, type))):
        raise TypeError(f"{who}: static_args must be names of parameters, got {brief(given)}.")
    names, all_names = {given} if isinstance(given, str) else set(given), [*inspect.signature(factory).parameters]
    if unknown := next((name for name in names if name not in all_names), None):
        hint = nearest(str(unknown), all_names)
        raise ValueError(f"{who}: static_args must be among {tree.listed(all_names)}, got {unknown!r}{hint}.")
    require_dtype(who, "hyperparam_dtype", dtype)
    if not isinstance(factory, Factory):
        return names
    return names | {name for name, slot in factory.slots.items() if not {"number", "schedule"} & slot.takes}


def _check_arguments(who: str, factory: Any, made: Callable[P, T]) -> Callable[P, T]:
    """Make a function that returns a transform reject arguments that cannot be hyperparameters."""
    if not isinstance(factory, Factory):
        return made

    @functools.wraps(made)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name, argument in factory.bound(args, kwargs).items():
            slot = factory.slots[name]
            number = slot.scalar and not (argument is None and "none" in slot.takes)
            if number and not (callable(argument) or hasattr(argument, "dtype") or isinstance(argument, _NUMBERS)):
                raise TypeError(f"{who}: {factory.__name__}: {refusal(argument, slot)}.")
            if number and concrete_value(argument) is not None:
                factory.require(name, argument)
        return made(*args, **kwargs)

    return call


_NUMBERS = (bool, int, float, complex)
