"""Bases by which code on the lower floors recognizes values and the factories that make them."""

from collections.abc import Mapping
from typing import Any


class Call:
    """A call of a factory, kept as data: the base of transforms, schedules and problems."""

    factory: Any
    """The factory that was called."""
    arguments: Mapping[str, Any]
    """The arguments by name."""


class Callee:
    """A function whose calls are kept as data: the base of factories."""

    __name__: str


def function_name(x: Any) -> str | None:
    """Return the name of a function for an error: `adamw.init` for a method of a value; `None` if it has none."""
    if isinstance(owner := getattr(x, "__self__", None), Call):
        return f"{owner.factory.__name__}.{x.__name__}"
    return getattr(x, "__qualname__", None) if callable(x) else None
