"""Hyperparameters as text that `parse` reads back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from gdjax.hints import nearest as nearest

_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64"
_NAMES += " float16 bfloat16 float32 float64 complex64 complex128"
DTYPES = {name: np.dtype(name) for name in _NAMES.split()}


def text(x: Any) -> str:
    """Write a value as an expression; what has no expression (a function, a tracer) stands in angle brackets."""
    match x:
        case Tracer():
            return f"<traced {x.aval.str_short()}>"
        case jax.Array() if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return f"key({text(jax.random.key_data(x))}, {str(jax.random.key_impl(x))!r})"
        case jax.Array() | np.ndarray():
            return f"array({_elements(np.asarray(x))}, {x.dtype})"
        case np.dtype():
            return x.name
        case Mapping():
            return "{" + ", ".join(f"{text(k)}: {text(v)}" for k, v in x.items()) + "}"
        case list():
            return "[" + ", ".join(map(text, x)) + "]"
        case tuple() if type(x) is tuple:
            return "(" + ", ".join(map(text, x)) + ("," if len(x) == 1 else "") + ")"
        case str():
            return repr(str(x))
        case optax.GradientTransformation() if not hasattr(x, "factory"):
            return f"<{type(x).__name__}>"
    if callable(x) and not hasattr(x, "factory"):
        return f"<{getattr(x, '__qualname__', type(x).__qualname__)}>"
    return repr(x)


def _elements(x: np.ndarray) -> str:
    """The elements as nested lists, each in the fewest digits that give it back in its dtype."""
    return "[" + ", ".join(map(_elements, x)) + "]" if x.ndim else str(x[()])


def brief(x: Any) -> str:
    """Write a value for an error: as `text` does, and a large array or tree by its kind and size alone."""
    leaves = jax.tree.leaves(x)
    if hasattr(x, "factory") or sum(getattr(leaf, "size", 1) for leaf in leaves) <= 8:
        shown = text(x)
        return shown if len(shown) <= 200 else f"{shown[:197]}..."
    if hasattr(x, "dtype"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    return f"a {type(x).__name__} of {len(leaves)} leaves"


def uncalled(x: Any) -> str:
    """What to say where a factory stands for a value that it makes."""
    return f"; call it: {x.__name__}(...)" if callable(x) and hasattr(x, "slots") else ""
