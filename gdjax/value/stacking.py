"""Many values as one, for `vmap`."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.value.base import V, Value
from gdjax.value.fingerprint import fingerprint
from gdjax.value.hyperparams import children
from gdjax.value.printing import brief


def stack(values: Iterable[V]) -> V:
    """Stack values of one structure along a new leading axis of every leaf, ready for `jax.vmap`.

    Args:
      values: values that differ in their numbers alone.

    Raises:
      ValueError: if there is none, or two differ in more than numbers.

    >>> import gdjax as gd
    >>> gd.stack([gd.clip(1.0), gd.clip(2.0)])
    clip(max_delta=array([1.0, 2.0], float32))
    """
    several = isinstance(values, Iterable) and not isinstance(values, Value)
    given = list(values) if several else []
    if not several or not all(isinstance(value, Value) for value in given):
        raise TypeError(f"stack: give a list of values, got {brief(given if several else values)}.")
    if not given:
        raise ValueError("stack: give at least one value.")
    for i, value in enumerate(given):
        if where := _difference(given[0], value):
            which = f"{brief(given[0])} and {brief(value)}, number {i},"
            raise ValueError(f"stack: {which} differ in more than numbers: {where}.")
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *given)


def _difference(first: Any, other: Any, at: str = "") -> str | None:
    """Say where two values first differ in more than numbers of one shape, and what each has there."""
    ours, theirs = dict(children(first)), dict(children(other))
    unlike = type(first) is not type(other) or getattr(first, "factory", None) != getattr(other, "factory", None)
    if unlike or ours.keys() != theirs.keys():
        whole = jax.tree.structure(first) == jax.tree.structure(other) == jax.tree.structure(0)
        return None if whole and jnp.shape(first) == jnp.shape(other) else _told(at, first, other)
    static = first._static.arguments if isinstance(first, Value) else {}
    for name, one in ours.items():
        path = f"{at}/{name}" if at else name
        if name in static:
            if fingerprint(one) != fingerprint(theirs[name]):
                return f"{_told(path, one, theirs[name])} (it shapes the program)"
        elif where := _difference(one, theirs[name], path):
            return where
    if ours or (jax.tree.structure(first) == jax.tree.structure(other) and _shapes(first) == _shapes(other)):
        return None
    return _told(at, first, other)


def _told(at: str, first: Any, other: Any) -> str:
    return f"{at} is {brief(first)} in the first, {brief(other)} here" if at else "they come of two factories"


def _shapes(node: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(node)]
