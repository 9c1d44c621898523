"""Calls that fail, explained by their arguments: one that is missing, is no array, or does not fit another."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gdjax import tree
from gdjax.hints import nearest

P = ParamSpec("P")
T = TypeVar("T")
_NAMES: set[str] = set()
"""The names of all functions that explain their calls."""


def explain_errors(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function say which of its arguments it failed for, where their types and shapes show it.

    A parameter annotated as `ArrayLike` must be an array or a number, one annotated as `Tree` (or `Any`) a tree of
    them, and all trees must be alike. An error that no argument explains passes as it is.

    Args:
      name: the name of the function in its errors.
    """
    _NAMES.add(name)

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        bound = explain_usage(name)(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return bound(*args, **kwargs)
            except (TypeError, ValueError) as error:
                cause = vars(error).get("cause", str(error))
                if _is_told(error) or not (fault := _fault(function, args, kwargs, cause)):
                    raise
                told = type(error)(f"{name}: {fault}.")
                vars(told)["cause"] = cause  # a function around this one tells it in its own name
                raise told from error

        return run

    return decorate


def reexport(name: str, function: Callable[P, T], module: str) -> Callable[P, T]:
    """Return a function of Optax that explains its calls, and that pickles as the one of a module of gdjax."""
    run = explain_errors(name)(function)
    run.__module__ = module
    return run


def explain_usage(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function answer a call without a needed argument, or with an unknown one, with its signature.

    Args:
      name: the name of the function in its errors.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except TypeError:
                if misuse := _misuse(function, args, kwargs):
                    raise TypeError(f"{name}: {misuse}.") from None
                raise

        return run

    return decorate


def _is_told(error: Exception) -> bool:
    """Return whether an error is in the words of one of these functions, or is of a kind of JAX's own."""
    own = str(error).partition(": ")[0] in _NAMES and not hasattr(error, "cause")
    return type(error) not in (TypeError, ValueError) or own


def _misuse(function: Callable[..., Any], args: Any, kwargs: Any) -> str | None:
    """Say how a call does not fit the signature of a function, if it does not."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        names, kinds = list(signature.parameters), [p.kind for p in signature.parameters.values()]
        strange = [] if inspect.Parameter.VAR_KEYWORD in kinds else [word for word in kwargs if word not in names]
        unknown = next((f"no parameter {word!r}{nearest(word, names)}" for word in strange), None)
        return f"{unknown or error}; its signature is {function.__name__}{signature_text(signature)}"
    return None


def _fault(function: Callable[..., Any], args: Any, kwargs: Any, cause: str) -> str | None:
    """Say which argument cannot be computed with, or which two trees differ; else add the shapes to the cause."""
    signature = inspect.signature(function)
    given = signature.bind(*args, **kwargs).arguments
    arrays, trees = {}, {}
    for name, argument in given.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            trees |= {f"{name}[{i}]": each for i, each in enumerate(argument)}
        elif parameter.annotation in (ArrayLike, ArrayLike | None):
            arrays |= {name: argument} if argument is not None or parameter.default is not None else {}
        elif parameter.annotation is Any or name in ("tree_x", "tree_y"):
            trees[name] = argument
    if strange := next((name for name, x in arrays.items() if not _is_array(x)), None):
        got = tree.shown(arrays[strange]) + _way(strange, arrays[strange])
        return f"{strange} must be an array, or a number, got {got}"
    if fault := _of_trees(trees):
        return fault
    shapes = {name: jnp.shape(x) for name, x in arrays.items() if jnp.ndim(x)}
    if len(set(shapes.values())) < 2:
        return None
    got = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
    if "incompatible shapes for broadcasting" in cause.lower():
        return f"the shapes must fit together, got {got}"
    return f"{cause.partition(chr(10))[0].rstrip('.:')}; got {got}"


def _of_trees(trees: dict[str, Any]) -> str | None:
    for name, argument in trees.items():
        for path, leaf in tree.leaves_with_paths(argument):
            if not (_is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)):
                where = f"{name} at {path!r}" if path else name
                return f"{where} must be an array, or a number, got {tree.shown(leaf)}"
    first, *others = trees or [""]
    for name in others:
        if where := tree.difference(trees[first], trees[name], first, name):
            return f"{first} and {name} differ {where}"
    return None


def _is_array(x: Any) -> bool:
    """Return whether something is an array of numbers, or a number."""
    if not hasattr(x, "dtype"):
        return isinstance(x, (bool, int, float, complex))
    is_number = jnp.issubdtype(x.dtype, jnp.number) or jnp.issubdtype(x.dtype, jnp.bool_)
    return is_number and isinstance(x, (jax.Array, np.ndarray, np.generic))


def _way(name: str, x: Any) -> str:
    if isinstance(x, (list, tuple)):
        return f"; make one: jnp.asarray({name})"
    return "; call it and give what it returns" if callable(x) else ""


def signature_text(signature: inspect.Signature) -> str:
    """Write a signature without types, as a call has it."""
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(parameters))


def require_numeric_leaves(who: str, what: str, of: Any) -> None:
    """Refuse leaves that are neither arrays, nor numbers, nor shapes, by path."""
    for path, leaf in tree.leaves_with_paths(of):
        if not (hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float, complex))):
            where = f"{what} at {path!r}" if path else what
            raise TypeError(f"{who}: {where} must be an array, or a jax.ShapeDtypeStruct, got {tree.shown(leaf)}.")
