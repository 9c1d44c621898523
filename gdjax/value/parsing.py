"""Read the printed form of a value: registered names, calls and literals, and nothing else."""

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.value.base import Value
from gdjax.value.printing import DTYPES, MAX_STRING, nearest

MAX_TEXT = 1_000_000
"""Characters that `parse` reads at the most."""
MAX_DEPTH = 50
"""Levels of calls and brackets that `parse` reads at the most."""
MAX_ECHO = 80
"""Most characters of a text that a reason repeats; 120 around the column stand below it."""
MAX_DIGITS = 640
"""Most digits of a decimal integer that Python reads whatever its limit is set to."""
MAX_REASON = 600
"""Most characters of a reason."""


class ParseError(ValueError):
    """Error for a text that is not a value. The message holds the reason, the column and the text."""


def parse(text: str, names: Mapping[str, Callable[..., Any]], wanted: str = "a transform or a schedule") -> Value:
    """Read an expression of the factories in `names`, of dtypes and of literals. Nothing is ever executed."""
    if not isinstance(text, str):
        raise ParseError(f"parse reads a string, got {type(text).__name__}.")
    if len(text) > MAX_TEXT:
        raise ParseError(f"parse reads {MAX_TEXT:,} characters at the most, got {len(text):,}.")
    text = _escaped(text.strip())
    _require_plain(text)
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        hint = " (what prints as <...> has no text: make this value in Python)" if "<" in text else ""
        raise _error(text, error.lineno or 1, (error.offset or 1) - 1, f"{error.msg}{hint}") from None
    except ValueError:
        raise _error(text, 1, 0, _NO_TEXT) from None
    except (MemoryError, RecursionError):
        raise _error(text, 1, 0, f"nested deeper than {MAX_DEPTH} levels") from None
    value = _Reader(text, names).read(tree.body, 0)
    if not isinstance(value, Value):
        raise _error(text, 1, 0, f"{wanted} is needed, not {_clipped(repr(value))}")
    return value


_STRINGS = re.compile(r"""([A-Za-z]{0,2})('''|\"\"\"|'|")(?:\\.|(?!\2).)*\2|['"].*""", re.DOTALL)
"""A string and its prefix; an unterminated one takes the rest of the text, so that it is read once."""


def _escaped(text: str) -> str:
    r"""Double the backslashes that escape nothing, as in `'\d'`.

    Python reads them the same way but warns, and silencing the warning would silence it in every thread.
    """

    def in_string(found: re.Match[str]) -> str:
        if found[1] is None or "r" in found[1].lower():
            return found[0]
        return re.sub(r"\\([4-7][0-7]{2}|.)", in_pair, found[0], flags=re.DOTALL)

    def in_pair(pair: re.Match[str]) -> str:
        if len(pair[1]) == 3:
            return f"\\u{int(pair[1], 8):04x}"
        return pair[0] if pair[1] in "\n\r\\'\"abfnrtvxNuU01234567" else f"\\{pair[0]}"

    return _STRINGS.sub(in_string, text) if "\\" in text else text


_TOKENS = re.compile(
    rf"{_STRINGS.pattern}|#[^\r\n]*|(?P<number>(?<![\w.])\.?\d[\w.]*(?:(?<=[eE])[+-]\w+)?)|\b(?P<comparison>is)\b",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:[\d_]+\.?[\d_]*|\.[\d_]+)(?:[eE][+-]?[\d_]+)?[jJ]?"
)


def _require_plain(text: str) -> None:
    """Refuse texts for which Python itself would warn, or raise an error about its limits."""
    if "\0" in text:
        raise _error(text, 1, 0, _NO_TEXT)
    for found in _TOKENS.finditer(text):
        number = found["number"]
        reason = ""
        if found["comparison"]:
            reason = f"a comparison {_NEITHER}"
        elif found[1] and {*found[1].lower()} & {"f", "t"}:
            reason = f"an f-string {_NEITHER}"
        elif found[1] and "b" in found[1].lower():
            reason = f"{_clipped(found[0])} is no value of a hyperparameter"
        elif number and not _NUMBER.fullmatch(number):
            reason = f"invalid number {_clipped(number)}"
        elif number and len(number) > MAX_DIGITS and set(number) <= _DIGITS:
            reason = "an integer of more than 64 bits"
        if reason:
            *before, line = re.split("\r\n|\r|\n", text[: found.start()])
            raise _error(text, len(before) + 1, len(line), reason)


_NO_TEXT = "the text must be UTF-8 without null characters"
_NEITHER = "is neither a call by name nor a literal"
_DIGITS = {*"0123456789_"}


class _Reader:
    def __init__(self, text: str, names: Mapping[str, Callable[..., Any]]):
        self.text = text
        own = {"array": _array, "key": _key, "complex": _complex}
        self.calls: Mapping[str, Callable[..., Any]] = {**names, **own}
        self.constants = {**DTYPES, "inf": math.inf, "nan": math.nan}

    def read(self, node: ast.expr, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.error(node, f"nested deeper than {MAX_DEPTH} levels")
        match node:
            case ast.Constant(value=value):
                return self.literal(node, value)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                value = self.number(operand, depth)
                return -value if isinstance(node.op, ast.USub) else value
            case ast.BinOp(op=ast.Add() | ast.Sub(), left=left, right=ast.Constant(value=complex() as imaginary)):
                real = self.number(left, depth)
                return real + imaginary if isinstance(node.op, ast.Add) else real - imaginary
            case ast.Tuple(elts=items):
                return tuple(self.read(item, depth + 1) for item in items)
            case ast.List(elts=items):
                return [self.read(item, depth + 1) for item in items]
            case ast.Dict(keys=keys, values=values):
                read = [self.key(node, key, depth) for key in keys]
                if len(set(read)) < len(read):
                    raise self.error(node, "a key is given twice")
                return {key: self.read(value, depth + 1) for key, value in zip(read, values, strict=True)}
            case ast.Name(id=name):
                return self.constant(node, name)
            case ast.Call(func=ast.Name(id=name)):
                return self.call(node, name, depth)
            case ast.Call(func=ast.Attribute(attr=name)):
                own = name if name in self.calls or name.lower() not in self.calls else name.lower()
                raise self.error(node, f"attribute access; names stand alone, {own}(...)")
            case ast.Attribute(attr=name):
                raise self.error(node, f"attribute access {_NEITHER}; write {name} alone")
        raise self.error(node, f"{_KINDS.get(type(node), type(node).__name__)} {_NEITHER}")

    def literal(self, node: ast.expr, value: Any) -> Any:
        if isinstance(value, str) and len(value) > MAX_STRING:
            raise self.error(node, f"a string of {len(value):,} characters, at the most {MAX_STRING:,}")
        if isinstance(value, int) and abs(value) >= 2**64:
            raise self.error(node, "an integer of more than 64 bits")
        if isinstance(value, (float, complex)) and math.isinf(abs(value)):
            raise self.error(node, "a number too large for a float (write inf)")
        if not (value is None or isinstance(value, (bool, int, float, complex, str))):
            raise self.error(node, f"{value!r} is no value of a hyperparameter")
        return value

    def number(self, node: ast.expr, depth: int) -> Any:
        value = self.read(node, depth + 1)
        if isinstance(value, bool) or not isinstance(value, (int, float, complex)):
            raise self.error(node, "only a number has a sign")
        return value

    def key(self, node: ast.expr, key: ast.expr | None, depth: int) -> Any:
        value = None if key is None else self.read(key, depth + 1)
        if not isinstance(value, (str, int)):
            raise self.error(key or node, "the keys of a dict are strings or integers")
        return value

    def constant(self, node: ast.expr, name: str) -> Any:
        if name in self.constants:
            return self.constants[name]
        if name in self.calls:
            raise self.error(node, f"{name} must be called: {name}(...)")
        raise self.unknown(node, name)

    def call(self, node: ast.Call, name: str, depth: int) -> Any:
        if name not in self.calls:
            raise self.unknown(node, name)
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                raise self.error(argument, "write the arguments out; * is not read")
        arguments = [self.read(argument, depth + 1) for argument in node.args]
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self.error(keyword.value, "write the arguments out; ** is not read")
            if keyword.arg in named:
                raise self.error(keyword, f"{keyword.arg} is given twice")
            named[keyword.arg] = self.read(keyword.value, depth + 1)
        try:
            return self.calls[name](*arguments, **named)
        except ParseError:
            raise
        except Exception as error:
            raise self.error(node, str(error)) from error

    def unknown(self, node: ast.expr, name: str) -> ParseError:
        if (word := name.capitalize()) in ("True", "False", "None"):
            return self.error(node, f"unknown name {name!r}, did you mean {word}")
        hint = nearest(name, [*self.calls, *self.constants])
        return self.error(node, f"unknown name {_clipped(repr(name))}{hint}")

    def error(self, node: ast.expr | ast.keyword, reason: str) -> ParseError:
        before = _line(self.text, node.lineno).encode()[: node.col_offset]
        return _error(self.text, node.lineno, len(before.decode(errors="replace")), reason)


_KINDS: Mapping[type[ast.AST], str] = {
    ast.Attribute: "attribute access",
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.JoinedStr: "an f-string",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star",
    ast.Set: "a set",
    ast.Subscript: "an index",
    ast.BinOp: "arithmetic",
    ast.UnaryOp: "arithmetic",
    ast.Compare: "a comparison",
    ast.Call: "a call of a call",
}


def _error(text: str, number: int, column: int, reason: str) -> ParseError:
    """Return an error that shows the text around the column."""
    line = _line(text, number)
    start = max(0, column - 60)
    where = f"column {column + 1}" if line == text else f"line {number}, column {column + 1}"
    reason = _without_echo(reason, text).rstrip(".")
    return ParseError(f"{reason}, at {where}:\n  {line[start : start + 120]}\n  {' ' * (column - start)}^")


def _without_echo(reason: str, text: str) -> str:
    """Cut off a reason where it repeats a long part of the text, or is long itself."""
    reason = _clipped(reason, MAX_REASON)
    long = (i for i in range(len(reason) - MAX_ECHO) if reason[i : i + MAX_ECHO + 1] in text)
    end = next(long, None)
    return reason if end is None else f"{reason[: end + MAX_ECHO - 3]}..."


def _clipped(words: str, most: int = MAX_ECHO) -> str:
    return words if len(words) <= most else f"{words[: most - 3]}..."


def _line(text: str, number: int) -> str:
    return re.split("\r\n|\r|\n", text)[number - 1]


def _array(items: Any, dtype: np.dtype, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return an array from its printed form, made in NumPy, so that it is exact under any configuration of JAX."""
    if shape is not None and (items != [] or not _is_empty(shape)):
        raise ValueError(f"array: a shape is for arrays without elements, got {shape}")
    if not isinstance(dtype, np.dtype):
        raise TypeError(f"array: the dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if np.array(items).dtype.kind not in "biufc":
        raise TypeError(f"array: numbers in nested lists are needed, got {type(items).__name__}")
    if shape is not None:
        return np.empty(shape, dtype)
    with np.errstate(over="ignore"):
        found = np.array(items, dtype)
    if dtype.kind in "iub" and np.any(found != np.array(items)):
        raise ValueError(f"array: {dtype} must hold the numbers exactly, got others")
    if np.any(np.isinf(found.astype(complex)) & ~np.isinf(np.array(items, complex))):
        raise ValueError(f"array: {dtype} must hold the numbers, got one beyond its range")
    return found


def _is_empty(shape: Any) -> bool:
    return type(shape) is tuple and 0 in shape and all(type(size) is int and 0 <= size < 2**31 for size in shape)


def _complex(real: float, imag: float) -> complex:
    """Return a complex number from its two parts."""
    if not (type(real) in (int, float) and type(imag) in (int, float)):
        raise TypeError("complex: two real numbers are needed")
    return complex(real, imag)


def _key(data: np.ndarray, impl: str) -> jax.Array:
    """Return a PRNG key from its printed form."""
    return jax.random.wrap_key_data(jnp.asarray(data), impl=impl)
