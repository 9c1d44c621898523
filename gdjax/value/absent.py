"""Updates in which some leaves are `None`: those parameters and their state stay as they are.

Equinox's `filter_grad` returns `None` for all that has no gradient. A transform then sees the parameters, and the part
of its state, that have an update; the rest is unchanged. A transform with several leaves in one buffer finds the
shape of a leaf without an update in `tree.Absent`. It takes zeros for that leaf, and restores its part of the buffer.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.tree import Tree

ERRORS = (TypeError, ValueError, AttributeError)
"""Errors of a transform that meets `None` where it expects an array."""


class Untouched:
    """A stand-in for a parameter without a gradient. Computing with it raises a TypeError."""


def chosen(params: Tree, updates: Tree) -> Tree:
    """Return the parameters that have an update, and `None` for the others."""
    if params is None or jax.tree.structure(params) == jax.tree.structure(updates):
        return params
    try:
        return jax.tree.map(lambda u, p: None if u is None else p, updates, params, is_leaf=_is_none)
    except ValueError:  # trees that do not belong together: the transform says so
        return params


def marked(updates: Tree, params: Tree) -> tuple[Tree, Tree]:
    """Return both trees with `tree.Absent` for arrays that have no update, and `None` for what is no array."""
    chosen = jax.tree.map(lambda u, p: jax.tree.map(_type, p) if u is None else p, updates, params, is_leaf=_is_none)
    return jax.tree.map(lambda u, p: p if u is None else u, updates, chosen, is_leaf=_is_none), chosen


def _type(x: Any) -> tree.Absent | None:
    try:
        kind = jax.typeof(x).update_weak_type(False)
    except TypeError:
        return None
    return tree.Absent(kind) if jnp.issubdtype(kind.dtype, jnp.inexact) else None


def unmarked(after: Tree, updates: Tree) -> Tree:
    """Put `None` back where the updates that came have it."""
    return jax.tree.map(lambda u, x: None if u is None else x, updates, after, is_leaf=_is_none)


def completed(part: Tree, whole: Tree) -> Tree:
    """Fill each `None` or `tree.Absent` of a part with the leaf of the whole."""
    return jax.tree.map(lambda x, other: other if _is_left_out(x) else x, part, whole, is_leaf=_is_left_out)


def of_the_whole(function: object, part: Tree, whole: Tree) -> object:
    """Wrap a function of all parameters (`value_fn`) as a function of a part of them; return all else as it is."""
    if not callable(function):
        return function
    structure = jax.tree.structure(part)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        full = [completed(x, whole) if jax.tree.structure(x) == structure else x for x in args]
        return function(*full, **kwargs)

    return called


def has_none(updates: Tree) -> bool:
    """Return whether a leaf has no update."""
    return any(map(_is_none, jax.tree.leaves(updates, is_leaf=_is_none)))


def fitting(init: Callable[[Tree], Tree], state: Tree, params: Tree) -> Tree:
    """Return the part of a state that belongs to the leaves with an update; `None` where no part does."""
    try:
        wanted = jax.eval_shape(init, params)
        part = jax.tree.map(lambda x, kept: x if _is_left_out(x) else kept, wanted, state, is_leaf=_is_left_out)
    except Exception:  # the error to report is the update's
        return None
    return part if jax.tree.map(jnp.shape, part) == jax.tree.map(jnp.shape, wanted) else None


def refilled(state: Tree, part: Tree) -> Tree:
    """Put a part of a state back into it; return anything else as it is."""
    if jax.tree.structure(state) == jax.tree.structure(part):
        return part
    try:
        return completed(part, state)
    except ValueError:
        return part


def _is_none(x: Any) -> bool:
    return x is None


def _is_left_out(x: Any) -> bool:
    return x is None or tree.is_absent(x)
