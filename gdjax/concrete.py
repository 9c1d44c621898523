"""Numbers that are known while a program is built."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def known(x: Any) -> np.ndarray | None:
    """Return a real number, or an array of them, where it can be read; `None` for all else, traced ones too."""
    if isinstance(x, Tracer) or not isinstance(x, (bool, int, float, np.generic, np.ndarray, jax.Array)):
        return None
    if isinstance(x, jax.Array) and not (x.is_fully_addressable and not x.is_deleted()):
        return None
    dtype = x.dtype if isinstance(x, (np.generic, np.ndarray, jax.Array)) else np.dtype(type(x))
    return np.asarray(x) if any(jnp.issubdtype(dtype, kind) for kind in _REAL) else None


_REAL = (np.bool_, np.integer, np.floating)
