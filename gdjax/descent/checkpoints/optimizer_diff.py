"""Whether an optimizer is the one that a text was printed of."""

import ast
import itertools
import re
from collections.abc import Iterator
from typing import Any

from gdjax.value.printing import text

LITERALS = ("array", "key")
"""Calls that stand for one argument."""


def differing(saved: str, tx: Any) -> str | None:
    """What differs between the optimizer that was saved and this one, in a sentence; `None` if nothing does.

    A `watch` around any part makes no difference, nor does a chain of one part. A function is told by its name alone.

    Args:
      saved: the text that the optimizer of then printed.
      tx: the optimizer of now.

    >>> import gdjax as gd
    >>> differing("adam(learning_rate=0.001)", gd.sgd(0.1))
    'adam(...) then, sgd(...) now'
    >>> differing(repr(gd.sgd(0.1)), gd.watch(gd.sgd(0.2)))
    'learning_rate: 0.1 then, 0.2 now'
    """
    now = text(tx)
    if saved == now:
        return None
    try:
        then_tree, now_tree = (ast.parse(_quoted(of), mode="eval").body for of in (saved, now))
        differences = list(itertools.islice(_differences(_bare(then_tree), _bare(now_tree), ()), 4))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        differences = [f"{saved} then, {now} now"]
    return "; ".join(differences[:3]) + ("; and more" if len(differences) > 3 else "") or None


def _quoted(of: str) -> str:
    """A text whose functions, printed as `<name>`, are strings."""
    parts = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|<(?:[^<>]|<[^<>]*>)*>"""
    return re.sub(parts, lambda part: repr(part[0]) if part[0][0] == "<" else part[0], of)


def _name(node: ast.expr) -> str | None:
    """The factory that a call is of."""
    call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in LITERALS
    return node.func.id if call else None  # pyright: ignore


def _bare(node: ast.expr) -> ast.expr:
    """What stands within a `watch` and within a chain of one part."""
    while isinstance(node, ast.Call):
        inner = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "inner")]
        if not (inner and (_name(node) == "watch" or (_name(node) == "chain" and len(inner) == 1))):
            break
        node = inner[0]
    return node


def _parts(node: ast.expr) -> dict[str, ast.expr]:
    """What a node is made of, by the names that a path to a hyperparameter has for it."""
    match node:
        case ast.Call() if _name(node):
            listed = {f"transforms/{i}": part for i, part in enumerate(node.args)}
            return listed | {str(keyword.arg): keyword.value for keyword in node.keywords}
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return {str(i): part for i, part in enumerate(parts)}
        case ast.Dict(keys=keys, values=values):
            return {_shown(key): value for key, value in zip(keys, values, strict=True) if key is not None}
    return {}


def _differences(then: ast.expr, now: ast.expr, way: tuple[str, ...]) -> Iterator[str]:
    parts_then, parts_now = _parts(then), _parts(now)
    alike = type(then) is type(now) and _name(then) == _name(now)
    if alike and _name(then) not in (None, "chain"):
        for name in parts_then | parts_now:
            if name in parts_then and name in parts_now:
                yield from _differences(_bare(parts_then[name]), _bare(parts_now[name]), (*way, name))
            else:
                was, is_ = (_shown(parts[name]) if name in parts else "not given" for parts in (parts_then, parts_now))
                yield f"{'/'.join([*way, name])}: {was} then, {is_} now"
    elif alike and parts_then and list(parts_then) == list(parts_now):
        for name, part in parts_then.items():
            yield from _differences(_bare(part), _bare(parts_now[name]), (*way, name))
    elif ast.dump(then) != ast.dump(now):
        yield f"{'/'.join(way)}{': ' if way else ''}{_shown(then)} then, {_shown(now)} now"


def _shown(node: ast.expr) -> str:
    """A node in few words: of a call its name, of a chain those of its parts."""
    if name := _name(node):
        inside = ", ".join(_shown(_bare(part)) for part in node.args) if name == "chain" else "..."  # pyright: ignore
        return f"{name}({inside})"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    shown = ast.unparse(node)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
