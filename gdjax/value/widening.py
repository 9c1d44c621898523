"""Float32 arithmetic for Optax transforms, which compute in the dtype they are given."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gdjax import tree
from gdjax.value import diagnose

Pair = tuple[Callable[..., Any], Callable[..., Any]]


def widened(pair: Pair) -> Pair:
    """Give `(init, update)` 16-bit leaves as float32, and return updates in the dtypes of the gradients.

    Parameters and the extra arguments `value` and `grad` are widened too. A function among the extra arguments
    (`value_fn`, `obj_fn`) is called with parameters of the caller's dtypes, and what it returns is widened.
    """
    init, update = pair

    def wide_init(params: Any) -> Any:
        return init(jax.tree.map(_wide, params))

    @functools.wraps(update)
    def wide_update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        given = {name: wide_argument(name, x, params) for name, x in extra_args.items()}
        stepped, kept = update(jax.tree.map(_wide, updates), state, jax.tree.map(_wide, params), **given)
        if jax.tree.structure(stepped) == jax.tree.structure(updates):
            stepped = jax.tree.map(_in_dtype_of, stepped, updates)
        return stepped, kept

    def wide_argument(name: str, x: Any, params: Any) -> Any:
        if callable(x):
            return _narrowly(x, params)
        return jax.tree.map(_wide, x) if name in ("value", "grad") else x

    return wide_init, wide_update


def settled(who: str, pair: Pair) -> Pair:
    """Keep the state of `(init, update)` as `init` made it, in separate buffers.

    Its dtypes stay; an array that is the caller's, or stands in two places, is copied, so that all may be donated.
    """
    init, update = pair

    def settled_init(params: Any) -> Any:
        with _explained(who, params):
            return _apart(init(params), params)

    @functools.wraps(update)
    def settled_update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        # without params, `mismatches` first checks whether these are what is missing
        with _explained(who, updates) if params is not None else contextlib.nullcontext():
            stepped, kept = update(updates, state, params, **extra_args)
        if jax.tree.structure(kept) == jax.tree.structure(state):
            kept = jax.tree.map(_in_dtype_of, kept, state)
        return stepped, _apart(kept, (updates, params, extra_args))

    return settled_init, settled_update


@contextlib.contextmanager
def _explained(who: str, params: Any) -> Iterator[None]:
    """Name the leaves that Optax's code cannot take, where it fails."""
    try:
        yield
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        diagnose.require_arrays(who, params, error)
        raise


def real_only(who: str, pair: Pair) -> Pair:
    """Refuse complex leaves, by path."""
    init, update = pair

    def real_init(params: Any) -> Any:
        diagnose.require_real(who, "params", params)
        return init(params)

    @functools.wraps(update)
    def real_update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        diagnose.require_real(who, "updates", updates)
        return update(updates, state, params, **extra_args)

    return real_init, real_update


def _wide(x: Any) -> Any:
    """Return a 16-bit array in float32, a Python number as an array, and anything else as it is."""
    if isinstance(x, (float, complex)):
        return jnp.asarray(x)
    if not tree.is_narrow(getattr(x, "dtype", None)):
        return x
    return x.update(dtype=jnp.float32) if isinstance(x, jax.ShapeDtypeStruct) else x.astype(jnp.float32)


def _narrowly(f: Callable[..., Any], params: Any) -> Callable[..., Any]:
    """Give a function of parameters the caller's dtypes, and widen what it returns."""

    @functools.wraps(f)
    def called(at: Any, *args: Any, **kwargs: Any) -> Any:
        if jax.tree.structure(at) == jax.tree.structure(params):
            at = jax.tree.map(_in_dtype_of, at, params)
        return jax.tree.map(_wide, f(at, *args, **kwargs))

    return called


def _in_dtype_of(x: Any, like: Any) -> Any:
    """Return an array in the dtype of its counterpart, where both are numbers."""
    dtypes: list[Any] = [getattr(of, "dtype", None) for of in (x, like)]
    if any(dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended) for dtype in dtypes):
        return x
    return x if jax.dtypes.float0 in dtypes else tree.as_dtype(x, dtypes[1])


def _apart(state: Any, given: Any) -> Any:
    """Return a state of strong types, in buffers that are neither the caller's nor shared among its leaves."""
    seen = {id(x) for x in jax.tree.leaves(given)}

    def own(x: Any) -> Any:
        if not isinstance(x, jax.Array):
            return x
        x = tree.as_dtype(x, x.dtype) if getattr(x, "weak_type", False) else x
        if id(x) in seen and not isinstance(x, Tracer):
            x = jnp.copy(x)
        seen.add(id(x))
        return x

    return jax.tree.map(own, state)
