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
