"""Signatures for readers: types by their short names, defaults as values print."""

import collections.abc
import inspect
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

import jax.typing
import optax

from gdjax.value.printing import text
from gdjax.value.slots import Scalar, ScalarOrSchedule

_SHORT = {
    ScalarOrSchedule: "ScalarOrSchedule",
    jax.typing.ArrayLike: "ArrayLike",
    jax.typing.DTypeLike: "DTypeLike",
    Scalar: "Scalar",
}
"""Unions that have a name, the larger ones first."""
_RECURSIVE = (collections.abc.Iterable, collections.abc.Mapping)
"""Parts of Chex's recursive type of a tree."""


class Parameter(inspect.Parameter):
    """A parameter with its true annotation and default, which prints both in short."""

    def __str__(self) -> str:
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        typed = self.annotation is not inspect.Parameter.empty
        shown = stars.get(self.kind, "") + self.name + (f": {short(self.annotation)}" if typed else "")
        if self.default is inspect.Parameter.empty:
            return shown
        return f"{shown} = {text(self.default)}" if typed else f"{shown}={text(self.default)}"

    def _format(self, **_: Any) -> str:  # Python 3.14 asks for this one
        return str(self)


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function, its annotations evaluated, its parameters printed in short."""
    found = inspect.signature(function, eval_str=True)
    parameters = [
        Parameter(p.name, p.kind, default=p.default, annotation=p.annotation) for p in found.parameters.values()
    ]
    return found.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


def short(annotation: object) -> str:
    """Write a type in short.

    >>> from gdjax.value import Rate
    >>> short(Rate | None)
    'ScalarOrSchedule | None'
    """
    if annotation in (None, types.NoneType):
        return "None"
    if annotation == optax.Schedule:
        return "Schedule"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return short(arguments[0])
    if origin in (Union, types.UnionType):
        return " | ".join(_union([x for part in arguments for x in _members(part)]))
    if origin is collections.abc.Callable:
        return "Callable"
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join('...' if x is Ellipsis else short(x) for x in arguments)}]"
    if isinstance(annotation, type):
        return annotation.__name__.rsplit(".", 1)[-1]  # of an array it holds the module
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(annotation))


def _union(members: list[Any]) -> list[str]:
    """Write the members of a union in short, several as one where they have a common name."""
    recursive = [x for x in members if get_origin(x) in _RECURSIVE and "ForwardRef" in str(get_args(x))]
    if recursive:
        rest = [x for x in members if x not in recursive and x not in get_args(jax.typing.ArrayLike)]
        return ["ArrayTree", *_union(rest)]
    for known, name in _SHORT.items():
        together = get_args(known)
        if all(member in members for member in together):
            return [name, *_union([member for member in members if member not in together])]
    return list(dict.fromkeys(map(short, members)))


def _members(part: Any) -> list[Any]:
    """Return the members of a union, annotated or not, or the type itself."""
    base = get_args(part)[0] if get_origin(part) is Annotated else part
    return [*get_args(base)] if get_origin(base) in (Union, types.UnionType) else [base]
