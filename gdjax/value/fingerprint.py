"""Equality and hashing by value of anything that a hyperparameter may be."""

import cmath
import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def fingerprint(x: object) -> Hashable:
    """Return a hashable object that is equal for equal values.

    Arrays count by shape, dtype and content, dicts and lists by content, every NaN equals every other, tracers and
    functions are equal only to themselves.
    """
    if isinstance(x, float) and math.isnan(x):
        return "nan"
    if isinstance(x, complex) and cmath.isnan(x):
        return "complex", fingerprint(x.real), fingerprint(x.imag)
    if isinstance(x, Tracer):
        return "tracer", id(x)
    if isinstance(x, jax.Array) and (x.is_deleted() or not x.is_fully_addressable):  # no numbers to compare here
        return "out of reach", id(x)
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return str(x.dtype), fingerprint(jax.random.key_data(x))
    if isinstance(x, (jax.Array, np.ndarray, np.generic)):
        x = np.asarray(x)
        return "array", x.shape, str(x.dtype), _content(x)
    if isinstance(x, OrderedDict):
        return "ordered", tuple((key, fingerprint(value)) for key, value in x.items())
    if isinstance(x, Mapping):
        return "mapping", frozenset((key, fingerprint(value)) for key, value in x.items())
    if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
        return type(x), tuple(map(fingerprint, x))
    if isinstance(x, np.dtype):  # equal to its own name, but of another hash
        return "dtype", x.name
    if callable(own := getattr(x, "_fingerprint", None)):  # a value: its hash would walk all below it once more
        return own()
    if _hashable(x):
        return x
    leaves, treedef = jax.tree.flatten(x)
    if len(leaves) == 1 and leaves[0] is x:
        raise TypeError(f"{type(x).__name__} is neither hashable nor a tree")
    return treedef, tuple(map(fingerprint, leaves))


def _content(x: np.ndarray) -> bytes:
    """Return the bytes of an array, with the same bits for every NaN."""
    numbers = x.reshape(-1).view(np.real(x).dtype) if x.dtype.kind == "c" else x
    if jnp.issubdtype(numbers.dtype, jnp.floating):
        with np.errstate(invalid="ignore"):  # signaling NaNs
            if (nan := np.isnan(numbers)).any():
                numbers = np.where(nan, np.array(math.nan, numbers.dtype), numbers)
    return numbers.tobytes()


def _hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True
