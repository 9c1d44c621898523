"""Float32 arithmetic for functions of 16-bit arrays."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from gdjax import tree

P = ParamSpec("P")
T = TypeVar("T")


def upcast(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function to compute in float32 or wider, and return the dtype to which its arguments promote.

    Sums in float16 overflow at 65,504, and sums of ones in bfloat16 stop growing at 256. Arguments in float32 or
    float64 are passed unchanged, and so are arguments that are not arrays.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        numbers = [x for x in jax.tree.leaves((args, kwargs)) if _is_number(x)]
        dtype = jnp.result_type(*numbers) if numbers else jnp.dtype("float32")
        args, kwargs = jax.tree.map(_upcast_array, (args, kwargs))  # pyright: ignore[reportAssignmentType]
        result = function(*args, **kwargs)
        return jax.tree.map(lambda x: tree.as_dtype(x, dtype), result) if tree.is_narrow(dtype) else result

    return run


def _is_number(x: Any) -> bool:
    return hasattr(x, "dtype") or isinstance(x, (bool, int, float, complex))


def _upcast_array(x: Any) -> Any:
    return tree.as_dtype(x, jnp.float32) if tree.is_narrow(getattr(x, "dtype", None)) else x
