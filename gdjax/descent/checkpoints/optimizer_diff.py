"""Compare an optimizer with the printed form of a saved one."""

import ast
import itertools
import re
from collections.abc import Iterator

import optax

from gdjax.names import parse
from gdjax.value.printing import text

LITERALS = ("array", "key")
"""Calls that print a single argument, and are no factories."""


def optimizer_difference(saved: str, tx: optax.GradientTransformation) -> str | None:
    """Describe how an optimizer differs from a saved one, in a sentence; `None` if it does not.

    A `watch` around any part makes no difference, nor does a chain of one part, nor an older way to write a value.
    Functions are compared by name alone.

    Args:
      saved: the printed form of the saved optimizer.
      tx: the current optimizer.

    >>> import gdjax as gd
    >>> optimizer_difference("adam(learning_rate=0.001)", gd.sgd(0.1))
    'adam(...) then, sgd(...) now'
    >>> optimizer_difference(repr(gd.sgd(0.1)), gd.watch(gd.sgd(0.2)))
    'learning_rate: 0.1 then, 0.2 now'
    """
    now = text(tx)
    if saved == now:
        return None
    try:
        then_tree, now_tree = (ast.parse(_quote_functions(form), mode="eval").body for form in (saved, now))
        then_tree = _Rewriter().visit(then_tree)
        differences = list(itertools.islice(_differences(_unwrap(then_tree), _unwrap(now_tree), ()), 4))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        differences = [f"{saved} then, {now} now"]
    return "; ".join(differences[:3]) + ("; and more" if len(differences) > 3 else "") or None


def _quote_functions(form: str) -> str:
    """Turn functions, which print as `<name>`, into strings."""
    pattern = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|<(?:[^<>]|<[^<>]*>)*>"""
    return re.sub(pattern, lambda match: repr(match[0]) if match[0][0] == "<" else match[0], form)


class _Rewriter(ast.NodeTransformer):
    """Writes each call that `parse` reads as it is printed today."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        try:
            return ast.parse(text(parse(ast.unparse(node))), mode="eval").body
        except (AttributeError, SyntaxError, TypeError, ValueError):  # a factory that is not known, or a function in it
            return self.generic_visit(node)  # pyright: ignore[reportReturnType]


def _factory(node: ast.expr) -> str | None:
    """Return the name of the factory that a node calls, if it calls one."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in LITERALS
    return node.func.id if is_call else None  # pyright: ignore


def _unwrap(node: ast.expr) -> ast.expr:
    """Return the node inside a `watch`, or inside a chain of one part."""
    while isinstance(node, ast.Call):
        inner = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "inner")]
        if not (inner and (_factory(node) == "watch" or (_factory(node) == "chain" and len(inner) == 1))):
            break
        node = inner[0]
    return node


def _children(node: ast.expr) -> dict[str, ast.expr]:
    """Return the children of a node by their names in a path to a hyperparameter."""
    match node:
        case ast.Call() if _factory(node):
            listed = {f"transforms/{i}": part for i, part in enumerate(node.args)}
            return listed | {str(keyword.arg): keyword.value for keyword in node.keywords}
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return {str(i): part for i, part in enumerate(parts)}
        case ast.Dict(keys=keys, values=values):
            return {_short(key): value for key, value in zip(keys, values, strict=True) if key is not None}
    return {}


def _differences(then: ast.expr, now: ast.expr, path: tuple[str, ...]) -> Iterator[str]:
    """Yield the differences between two nodes."""
    parts_then, parts_now = _children(then), _children(now)
    alike = type(then) is type(now) and _factory(then) == _factory(now)
    if alike and _factory(then) not in (None, "chain"):
        for name in parts_then | parts_now:
            if name in parts_then and name in parts_now:
                yield from _differences(_unwrap(parts_then[name]), _unwrap(parts_now[name]), (*path, name))
            else:
                was, is_ = (_short(parts[name]) if name in parts else "not given" for parts in (parts_then, parts_now))
                yield f"{'/'.join([*path, name])}: {was} then, {is_} now"
    elif alike and parts_then and list(parts_then) == list(parts_now):
        for name, part in parts_then.items():
            yield from _differences(_unwrap(part), _unwrap(parts_now[name]), (*path, name))
    elif ast.dump(then) != ast.dump(now):
        yield f"{'/'.join(path)}{': ' if path else ''}{_short(then)} then, {_short(now)} now"


def _short(node: ast.expr) -> str:
    """Print a node in a few words: a call by its name, a chain by the names of its parts."""
    if name := _factory(node):
        inside = ", ".join(_short(_unwrap(part)) for part in node.args) if name == "chain" else "..."  # pyright: ignore
        return f"{name}({inside})"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    shown = ast.unparse(node)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
