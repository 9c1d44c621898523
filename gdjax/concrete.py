"""Numbers that are known while a program is built."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def concrete_value(x: Any) -> np.ndarray | None:
    """Return a real number, or an array of them, where it can be read; `None` for all else, traced ones too."""
    if isinstance(x, Tracer) or not isinstance(x, (bool, int, float, np.generic, np.ndarray, jax.Array)):
        return None
    if isinstance(x, jax.Array) and not (x.is_fully_addressable and not x.is_deleted()):
        return None
    dtype = x.dtype if isinstance(x, (np.generic, np.ndarray, jax.Array)) else np.dtype(type(x))
    return np.asarray(x) if any(jnp.issubdtype(dtype, kind) for kind in _REAL) else None


def require_nonnegative(what: str, number: Any) -> None:
    """Refuse a number that is known to be negative or NaN, and an array that holds one."""
    if (numbers := concrete_value(number)) is not None and not np.all(numbers >= 0):
        raise ValueError(f"{what} must be at least 0, got {number}.")


def require_fraction(what: str, number: Any) -> None:
    """Refuse a number that is known to lie outside of [0, 1], and an array that holds one."""
    if (numbers := concrete_value(number)) is not None and not np.all((numbers >= 0) & (numbers <= 1)):
        raise ValueError(f"{what} must be in [0, 1], got {number}.")


_REAL = (np.bool_, np.integer, np.floating)
