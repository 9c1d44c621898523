"""The factories of the package by name, and the reading of printed transforms."""

import importlib
from typing import Any

from gdjax import exports, value
from gdjax.value import Factory

ROOMS = {"algorithms", "collectives", "compose", "lifted", "matrices", "schedules", "transforms", "wrappers"}
"""The folders and modules whose exported factories `parse` reads."""

SHORTHANDS = {"compressed_mean"}
"""Public functions that `parse` also reads; each returns a value of one of several factories."""


def factories() -> dict[str, Factory[..., Any]]:
    """Return the factories of the package by name.

    >>> sorted(factories())[:3]
    ['accumulate', 'acprop', 'adabelief']
    """
    exported = {name: _load(name) for name, home in exports.HOME.items() if home.split(".")[0] in ROOMS}
    return {name: x for name, x in sorted(exported.items()) if isinstance(x, Factory)}


def _load(name: str) -> Any:
    """Return the public object of a name."""
    return getattr(importlib.import_module(f"gdjax.{exports.HOME[name]}"), name)


def parse(text: str, *extra: Factory[..., Any]) -> Any:
    """Read a transform or a schedule from the text that it prints.

    It reads calls of the package's factories, their names, and literals: numbers, strings, booleans, `None`, tuples,
    lists, dicts, `array([1.0], float32)` and dtypes. It never executes or imports anything.

    Args:
      text: an expression of at most 1,000,000 characters and 50 levels.
      *extra: your own factories that the text names.

    Raises:
      ParseError: if the text cannot be read, with the reason, the column and the text.

    >>> parse("chain(clip(1), adam(warmup_cosine(3e-4, 1_000, 20_000)))").peak
    0.0003
    """
    shorthands = {name: _load(name) for name in SHORTHANDS}
    return value.parse(text, {**factories(), **shorthands, **value.named("parse", extra)})
