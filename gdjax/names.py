"""Factories of the package by name, and the texts that name them."""

import importlib
from typing import Any

from gdjax import exports, value
from gdjax.value import Factory

ROOMS = {"algorithms", "collectives", "compose", "lifted", "matrices", "schedules", "transforms", "wrappers"}
"""The folders and files whose exported factories `parse` reads."""


def factories() -> dict[str, Factory[..., Any]]:
    """Return the factories of the package by name.

    >>> sorted(factories())[:3]
    ['accumulate', 'acprop', 'adabelief']
    """
    homes = {name: home for name, home in exports.HOME.items() if home.split(".")[0] in ROOMS}
    exported = {name: getattr(importlib.import_module(f"gdjax.{home}"), name) for name, home in homes.items()}
    return {name: x for name, x in sorted(exported.items()) if isinstance(x, Factory)}


def parse(text: str, *own: Factory[..., Any]) -> Any:
    """Read a transform or a schedule from the text that it prints.

    Read are the names of the package's factories, calls of them, and literals: numbers, strings, booleans, `None`,
    tuples, lists, dicts, `array([1.0], float32)` and dtypes. Nothing is ever executed or imported.

    Args:
      text: an expression, of 1,000,000 characters and 50 levels at the most.
      *own: factories of your own that the text names.

    Raises:
      ParseError: with the reason, the column and the text.

    >>> parse("chain(clip(1), adam(warmup_cosine(3e-4, 1_000, 20_000)))").peak
    0.0003
    """
    return value.parse(text, {**factories(), **value.named("parse", own)})
