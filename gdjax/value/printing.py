"""Hyperparameters as text that `parse` reads back."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from gdjax.calls import Call, Callee, function_name
from gdjax.hints import nearest as nearest

_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64"
_NAMES += " float16 bfloat16 float32 float64 complex64 complex128"
_NARROW = "int2 int4 uint2 uint4 float4_e2m1fn float8_e3m4 float8_e4m3 float8_e8m0fnu"
_NARROW += " float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"
DTYPES = {name: np.dtype(name) for name in _NAMES.split()}
DTYPES |= {name: np.dtype(getattr(jnp, name)) for name in _NARROW.split() if hasattr(jnp, name)}
MAX_STRING = 1_000
"""Longest string, in characters, that has an expression."""
MAX_NUMBERS = 100_000
"""Most numbers of an array that has an expression."""


def text(x: object, ordered: bool = True) -> str:
    """Write a value as an expression that `parse` reads back.

    What has no expression stands in angle brackets: a function, a tracer, bytes, an integer of more than 64 bits.

    Args:
      x: the value.
      ordered: write an `OrderedDict` as a dict, which is how a value keeps the dicts among its leaves.
    """
    match x:
        case Tracer():
            return f"<traced {x.aval.str_short()}>"
        case jax.Array() | np.ndarray():
            return _array(x)
        case np.generic() if type(x.item()) in (bool, int, float, complex):
            return text(x.item())
        case np.dtype():
            return x.name if DTYPES.get(x.name) == x else f"<dtype {x.name}>"
        case dict() if type(x) is dict or (ordered and type(x) is OrderedDict):
            return "{" + ", ".join(f"{_key(key)}: {text(value, ordered)}" for key, value in x.items()) + "}"
        case list() if type(x) is list:
            return "[" + ", ".join(text(item, ordered) for item in x) + "]"
        case tuple() if type(x) is tuple:
            return "(" + ", ".join(text(item, ordered) for item in x) + ("," if len(x) == 1 else "") + ")"
        case str() if type(x).__str__ is str.__str__:
            return repr(str(x)) if len(x) <= MAX_STRING else f"<string of {len(x):,} characters>"
        case int() if type(x) is int:
            return str(x) if abs(x) < 2**64 else f"<integer of {x.bit_length():,} bits>"
        case complex() if type(x) is complex:
            return _complex(x)
        case None | bool():
            return repr(x)
        case float() if type(x) is float:
            return repr(x)
        case bytes() | bytearray():
            return f"<{len(x):,} bytes>"
        case optax.GradientTransformation() if not isinstance(x, Call):
            return f"<{type(x).__name__}>"
    if isinstance(x, Call):
        return repr(x)
    if callable(x):
        return f"<{function_name(x) or type(x).__qualname__}>"
    return f"<{_words(x, ordered)}>"


def _key(key: Any) -> str:
    """Write a key of a dict: a string or an integer has an expression."""
    return text(key) if isinstance(key, (str, int)) else f"<{_bare(text(key))}>"


def _words(x: Any, ordered: bool) -> str:
    """Describe something without an expression; equal ones get equal words."""
    if isinstance(x, (set, frozenset)):
        return f"{type(x).__name__} {', '.join(sorted(_bare(text(item)) for item in x))}"
    if isinstance(x, Mapping):
        items = (f"{_bare(text(key))}: {_bare(text(value, ordered))}" for key, value in x.items())
        return f"{type(x).__name__} {', '.join(items)}"
    return _bare(repr(x))


def _bare(words: str) -> str:
    """Remove angle brackets from words, so that one pair can go around them."""
    return words.replace("<", "").replace(">", "")


def _array(x: Any) -> str:
    """Write an array as nested lists and a dtype, with the shape where lists do not show it."""
    if isinstance(x, jax.Array):
        if x.is_deleted() or not x.is_fully_addressable:
            return f"<{'deleted' if x.is_deleted() else 'global'} {x.dtype}{list(x.shape)}>"
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return f"key({text(jax.random.key_data(x))}, {str(jax.random.key_impl(x))!r})"
    kept = np.asarray(x)
    if DTYPES.get(kept.dtype.name) != kept.dtype or kept.size > MAX_NUMBERS:
        return f"<{_bare(str(kept.dtype.name))}{list(kept.shape)}>"
    shape = f", {text(kept.shape)}" if kept.size == 0 and kept.shape != (0,) else ""
    return f"array({_elements(kept)}, {kept.dtype.name}{shape})"


def _elements(x: np.ndarray) -> str:
    """Write the elements as nested lists, each in the fewest digits that restore it in its dtype."""
    if not x.size:
        return "[]"
    if x.ndim:
        return "[" + ", ".join(map(_elements, x)) + "]"
    return _complex(x[()]) if x.dtype.kind == "c" else _signed(str(x[()]))


def _complex(x: Any) -> str:
    """Write a complex number as a sum, or as its parts where a sum loses a sign or is not finite."""
    finite = math.isfinite(x.real) and math.isfinite(x.imag)
    loses_sign = not (x.real and x.imag) and min(math.copysign(1.0, part) for part in (x.real, x.imag)) < 0
    return str(x) if finite and not loses_sign else f"complex({_signed(str(x.real))}, {_signed(str(x.imag))})"


def _signed(number: str) -> str:
    """Return a number's text; a negative zero needs a point, since integers have none."""
    return "-0.0" if number == "-0" else number


def brief(x: Any) -> str:
    """Write a value for an error: as `text` does, and a large array or tree by its kind and size alone."""
    leaves = jax.tree.leaves(x)
    if isinstance(x, Call) or sum(getattr(leaf, "size", 1) for leaf in leaves) <= 8:
        shown = text(x)
        return shown if len(shown) <= 200 else f"{shown[:197]}..."
    if hasattr(x, "dtype"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    return f"a {type(x).__name__} of {len(leaves)} leaves"


def uncalled(x: object) -> str:
    """Suggest to call a factory that stands where its value belongs."""
    return f"; call it: {x.__name__}(...)" if isinstance(x, Callee) else ""
