"""What factories declare of their transforms, and how it is asked of a transform with all that is within it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from gdjax import axes
from gdjax.value.base import Value


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a transform can be given."""

    flat: bool = False
    """All leaves as one vector."""
    parts: bool = False
    """A part of every leaf, filled up with zeros."""
    reduces: bool = False
    """Gradients that the members of an axis have each for itself."""
    apart: bool = False
    """Parameters that they have each for itself, too."""


NONE = Traits()


def lacking(tx: Any, has: Callable[[Value], bool]) -> Any:
    """The part of a transform that has not what is asked for, `None` where all of it has.

    A named optimizer has what the chain that it stands for has.
    """
    if not isinstance(tx, Value):
        return tx
    if has(tx):
        return next((missing for part in within(tx) if (missing := lacking(part, has)) is not None), None)
    body = tx.body()
    return lacking(body, has) if isinstance(body, Value) and not tx.factory.composes else tx


def within(tx: Value) -> Iterator[Value]:
    """The transforms that one is made of, as its arguments."""
    for name, argument in tx.arguments.items():
        if "transform" in tx.factory.slots[name].takes:
            yield from (part for part in jax.tree.leaves(argument, is_leaf=_is_value) if _is_value(part))


def anywhere(tx: Any, trait: str) -> bool:
    """Whether anything in a transform has a trait."""
    return isinstance(tx, Value) and (
        getattr(tx.factory.traits, trait) or any(anywhere(part, trait) for part in within(tx))
    )


def reduced_over(tx: Any) -> tuple[Any, ...]:
    """The names of axes over whose members a transform takes gradients each for itself."""
    if not isinstance(tx, Value):
        return ()
    own = axes.names(tx.arguments["axis_name"]) if tx.factory.traits.reduces else ()
    return tuple(dict.fromkeys([*own, *(name for part in within(tx) for name in reduced_over(part))]))


def over(tx: Any, axis_name: Any) -> Any:
    """The transform with its norms over an axis, wherever it has a parameter `axis_name` and that is `None`."""

    def inner(part: Any) -> Any:
        return over(part, axis_name) if _is_value(part) else part

    given = dict(tx.arguments)
    for name, argument in tx.arguments.items():
        if "transform" in tx.factory.slots[name].takes:
            given[name] = jax.tree.map(inner, argument, is_leaf=_is_value)
    if given.get("axis_name", axis_name) is None:
        given["axis_name"] = axis_name
    return tx.factory.kind(tx.factory, given)


def _is_value(node: Any) -> bool:
    return isinstance(node, Value)
