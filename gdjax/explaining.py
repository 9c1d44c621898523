"""Errors of failed calls that name the argument at fault: missing, not an array, or of a wrong shape."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gdjax import axes, tree
from gdjax.hints import nearest

P = ParamSpec("P")
T = TypeVar("T")
_EXPLAINED_NAMES: set[str] = set()
"""The names of all functions under `explain_errors`."""


def explain_errors(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that its errors name the argument at fault, if types and shapes show which.

    Parameters annotated as `ArrayLike` must be arrays or numbers. Parameters annotated as `Tree` or `Any` must be
    trees of these, with the same structure and shapes. An error that no argument explains passes unchanged.

    Args:
      name: the name of the function in its errors.
    """
    _EXPLAINED_NAMES.add(name)

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        checked = explain_usage(name)(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return checked(*args, **kwargs)
            except axes.AxisError as error:
                raise axes.NamedAxisError(f"{name}: {error}") from None
            except (TypeError, ValueError) as error:
                cause = vars(error).get("cause", str(error))
                if _is_explained(error) or not (fault := _describe_fault(function, args, kwargs, cause)):
                    raise
                explained = type(error)(f"{name}: {fault}.")
                vars(explained)["cause"] = cause  # lets an explained caller report it under its own name
                raise explained from error

        return run

    return decorate


def reexport(name: str, function: Callable[P, T], module: str) -> Callable[P, T]:
    """Return an Optax function with explained errors, which pickles as a member of a gdjax module."""
    wrapped = explain_errors(name)(function)
    wrapped.__module__ = module
    return wrapped


def explain_usage(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that a call with a missing or unknown argument reports the signature.

    Args:
      name: the name of the function in its errors.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except TypeError:
                if misuse := _describe_misuse(function, args, kwargs):
                    raise TypeError(f"{name}: {misuse}.") from None
                raise

        return run

    return decorate


def _is_explained(error: Exception) -> bool:
    """Return whether an explained function raised this error itself, or its type is one of JAX's own."""
    raised_by_explained = str(error).partition(": ")[0] in _EXPLAINED_NAMES and not hasattr(error, "cause")
    return type(error) not in (TypeError, ValueError) or raised_by_explained


def _describe_misuse(function: Callable[..., Any], args: Any, kwargs: Any) -> str | None:
    """Describe how a call does not fit the signature of a function; return `None` if it fits."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        names, kinds = list(signature.parameters), [p.kind for p in signature.parameters.values()]
        unknown = [] if inspect.Parameter.VAR_KEYWORD in kinds else [word for word in kwargs if word not in names]
        message = next((f"no parameter {word!r}{nearest(word, names)}" for word in unknown), None)
        return f"{message or error}; its signature is {function.__name__}{signature_text(signature)}"
    return None


def _describe_fault(function: Callable[..., Any], args: Any, kwargs: Any, cause: str) -> str | None:
    """Name the argument that is not an array, or the two trees that differ; otherwise add the shapes to the cause."""
    signature = inspect.signature(function)
    arguments = signature.bind(*args, **kwargs).arguments
    arrays, trees = {}, {}
    for name, argument in arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            trees |= {f"{name}[{i}]": item for i, item in enumerate(argument)}
        elif parameter.annotation in (ArrayLike, ArrayLike | None):
            arrays |= {name: argument} if argument is not None or parameter.default is not None else {}
        elif parameter.annotation in (Any, tree.Tree) or name in ("tree_x", "tree_y"):
            trees[name] = argument
    if wrong := next((name for name, x in arrays.items() if not _is_array(x)), None):
        got = tree.shown(arrays[wrong]) + _suggest_array(wrong, arrays[wrong])
        return f"{wrong} must be an array or a number, got {got}"
    if fault := _describe_tree_fault(trees):
        return fault
    shapes = {name: jnp.shape(x) for name, x in arrays.items() if jnp.ndim(x)}
    if len(set(shapes.values())) < 2:
        return None
    got = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
    if "incompatible shapes for broadcasting" in cause.lower():
        return f"the shapes must fit together, got {got}"
    return f"{cause.partition(chr(10))[0].rstrip('.:')}; got {got}"


def _describe_tree_fault(trees: dict[str, Any]) -> str | None:
    """Name the leaf that is not an array, or the two trees that differ."""
    for name, argument in trees.items():
        for path, leaf in tree.leaves_with_paths(argument):
            if not (_is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)):
                where = f"{name} at {path!r}" if path else name
                return f"{where} must be an array or a number, got {tree.shown(leaf)}"
    first, *others = trees or [""]
    for name in others:
        if where := tree.difference(trees[first], trees[name], first, name):
            return f"{first} and {name} differ {where}"
    return None


def _is_array(x: Any) -> bool:
    """Return whether `x` is an array of numbers, or a number."""
    if not hasattr(x, "dtype"):
        return isinstance(x, (bool, int, float, complex))
    is_number = jnp.issubdtype(x.dtype, jnp.number) or jnp.issubdtype(x.dtype, jnp.bool_)
    return is_number and isinstance(x, (jax.Array, np.ndarray, np.generic))


def _suggest_array(name: str, x: Any) -> str:
    """Return how to turn a list, tuple or function into an array, to end an error with."""
    if isinstance(x, (list, tuple)):
        return f"; pass jnp.asarray({name})"
    return "; pass what it returns" if callable(x) else ""


def signature_text(signature: inspect.Signature) -> str:
    """Return a signature as text, without annotations."""
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(parameters))


def require_numeric_leaves(who: str, name: str, pytree: tree.Tree) -> None:
    """Reject leaves that are neither arrays, numbers nor `jax.ShapeDtypeStruct`, by path."""
    for path, leaf in tree.leaves_with_paths(pytree):
        if not (hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float, complex))):
            where = f"{name} at {path!r}" if path else name
            raise TypeError(f"{who}: {where} must be an array or a jax.ShapeDtypeStruct, got {tree.shown(leaf)}.")
