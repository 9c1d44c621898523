"""Reach a hyperparameter deep inside a value, by its name or by its path (`transforms/1/learning_rate`)."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from gdjax.calls import Call
from gdjax.value.printing import brief, nearest
from gdjax.value.synonyms import meant

Keys = tuple[str, ...]
"""The way to a hyperparameter, key by key: a key (a pattern of `by_path`) may hold slashes itself."""


def locate(value: Call, where: str, use: Callable[[Call, list[Keys]], str]) -> Keys:
    """Find the one hyperparameter that a name or a path means.

    Args:
      value: where to look.
      where: the name or the path.
      use: returns the advice in the error for a name that more than one hyperparameter has.
    """
    ways = list(hyperparams(value))
    found = [(where,)] if where in value.arguments else [way for way in ways if "/".join(way) == where]
    found = found or [way for way in ways if way[-1] == where]
    if len(found) == 1:
        return found[0]
    maker = value.factory.__name__
    if found:
        raise AttributeError(f"{maker} holds {len(found)} hyperparameters {where}: {use(value, found)}.")
    names = sorted({way[-1] for way in ways})
    known = meant(where, names)
    hint = f", did you mean {known[0]!r}" if known else nearest(where, {*names, *map("/".join, ways)})
    hint = hint or f"; it has {', '.join(names)}"
    raise AttributeError(f"{maker} has no hyperparameter {where!r}{hint}.")


def reading(value: Call, ways: list[Keys]) -> str:
    """Return advice on how to read a hyperparameter whose name others have, too."""
    return f"write {' or '.join(_expression(value, way) for way in ways)}"


def changing(argument: object) -> Callable[[Call, list[Keys]], str]:
    """Return a function that gives advice on how to set a hyperparameter whose name others have, too."""

    def advice(value: Any, ways: list[Keys]) -> str:
        paths = ["/".join(way) for way in ways]
        call = f"tx.replace({{{paths[0]!r}: {brief(argument)}}})"
        return f"give a path, one of {', '.join(map(repr, paths))}, as in {call}"

    return advice


def _expression(node: Any, way: Keys) -> str:
    """Write the expression of one hyperparameter: `tx.transforms[0].learning_rate`."""
    written = "tx"
    for key in way:
        is_sequence = isinstance(node, (list, tuple)) and not isinstance(node, Call)
        written += f"[{key}]" if is_sequence else f".{key}" if isinstance(node, Call) else f"[{key!r}]"
        node = dict(children(node))[key]
    return written


def hyperparams(node: object, way: Keys = ()) -> Iterator[Keys]:
    """Yield the way to every argument of every value within."""
    for key, child in children(node):
        if isinstance(node, Call):
            yield (*way, key)
        yield from hyperparams(child, (*way, key))


def get(node: object, way: Keys) -> Any:
    """Return the node at the end of a path."""
    for key in way:
        node = dict(children(node))[key]
    return node


def put(node: Call | OrderedDict[str, Any] | list[Any] | tuple[Any, ...], way: Keys, argument: object) -> Any:
    """Return a copy with another argument at the end of a way. Every value on the way is made, and checked, again."""
    if not way:
        return argument
    changed = {**dict(children(node)), way[0]: put(get(node, way[:1]), way[1:], argument)}
    if isinstance(node, Call):
        return node.factory.make(changed)
    return OrderedDict(changed) if isinstance(node, OrderedDict) else type(node)(changed.values())


def children(node: object) -> Iterator[tuple[str, Any]]:
    """Yield what stands directly within a value, or a container of them, by key."""
    if isinstance(node, Call):
        yield from node.arguments.items()
    elif isinstance(node, OrderedDict):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from ((str(i), child) for i, child in enumerate(node))
