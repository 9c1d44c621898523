"""Values of numbers that are concrete, not traced."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike


def concrete_value(x: object) -> np.ndarray | None:
    """Return the value of a real number or array, or `None` if it is traced, deleted or on other processes."""
    if isinstance(x, Tracer) or not isinstance(x, (bool, int, float, np.generic, np.ndarray, jax.Array)):
        return None
    if isinstance(x, jax.Array) and not (x.is_fully_addressable and not x.is_deleted()):
        return None
    dtype = x.dtype if isinstance(x, (np.generic, np.ndarray, jax.Array)) else np.dtype(type(x))
    return np.asarray(x) if any(jnp.issubdtype(dtype, kind) for kind in _REAL) else None


def require_nonnegative(name: str, number: ArrayLike | None) -> None:
    """Reject a number or array that has a concrete negative or NaN element."""
    if (numbers := concrete_value(number)) is not None and not np.all(numbers >= 0):
        raise ValueError(f"{name} must be at least 0, got {number}.")


def require_fraction(name: str, number: ArrayLike | None) -> None:
    """Reject a number or array that has a concrete element outside [0, 1]."""
    if (numbers := concrete_value(number)) is not None and not np.all((numbers >= 0) & (numbers <= 1)):
        raise ValueError(f"{name} must be in [0, 1], got {number}.")


_REAL = (np.bool_, np.integer, np.floating)
