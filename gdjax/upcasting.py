"""Compute with 16-bit arguments in float32, and return the result in their dtype."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from gdjax.tree import as_dtype, wide

P = ParamSpec("P")
T = TypeVar("T")


def upcast(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function compute in float32 or wider, and return the dtype to which its arguments promote.

    Sums of float16 overflow at 65,504 and sums of bfloat16 stop growing at 256 ones; in float32 they do neither. An
    argument in float32 or float64 is passed on as it is, and so is everything that is not an array.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        given = [x for x in jax.tree.leaves((args, kwargs)) if _is_number(x)]
        dtype = jnp.result_type(*given) if given else jnp.dtype("float32")
        args, kwargs = jax.tree.map(_widen, (args, kwargs))  # pyright: ignore[reportAssignmentType]
        result = function(*args, **kwargs)
        return jax.tree.map(lambda x: as_dtype(x, dtype), result) if _is_narrow(dtype) else result

    return run


def _is_number(x: Any) -> bool:
    return hasattr(x, "dtype") or isinstance(x, (bool, int, float, complex))


def _is_narrow(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and wide(jnp.dtype(dtype)) != dtype


def _widen(x: Any) -> Any:
    return as_dtype(x, wide(jnp.dtype(x.dtype))) if hasattr(x, "dtype") and _is_narrow(x.dtype) else x
