"""Every factory of the package by the name it prints under."""

from typing import Any

from gdjax import algorithms, collectives, compose, lifted, matrices, optimizers, schedules, transforms, value, wrappers
from gdjax.value import Factory


def factories() -> dict[str, Factory[..., Any]]:
    """The factories of the package, those written here before the lifted ones of the same name.

    >>> sorted(factories())[:3]
    ['accumulate', 'acprop', 'adabelief']
    """
    found: dict[str, Factory[..., Any]] = {}
    for module in (lifted, matrices, schedules, transforms, compose, algorithms, wrappers, collectives, optimizers):
        made = {name: x for name, x in vars(module).items() if isinstance(x, Factory) and not name.startswith("_")}
        found |= made
    return found


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
