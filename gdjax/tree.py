"""Trees of arrays: the paths of their leaves, their dtypes, accumulators."""

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import KeyPath, keystr
from jax.typing import ArrayLike, DTypeLike

from gdjax import axes
from gdjax.calls import function_name

Tree = Any
"""A pytree of arrays."""

Mask = str | Tree | Callable[[Tree], Tree]
"""A regular expression over whole paths, a tree of booleans, or a function of the parameters that returns one."""


def path(keys: KeyPath) -> str:
    """Write a key path as `encoder/layers/0/kernel`.

    >>> import jax
    >>> from jax.tree_util import DictKey, SequenceKey
    >>> path((DictKey("layers"), SequenceKey(0), DictKey("kernel")))
    'layers/0/kernel'
    """
    return keystr(keys, simple=True, separator="/")


def leaves_with_paths(tree: Tree) -> Iterator[tuple[str, Any]]:
    """Yield `(path, leaf)` for every leaf, in the order of `jax.tree.leaves`."""
    for keys, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_boxed)[0]:
        for leaf in jax.tree.leaves(node):
            yield path(keys), leaf


def map_paths(f: Callable[[str], Any], tree: Tree) -> Tree:
    """Return a tree of `f(path)`, one for each leaf."""

    def at(keys, node):
        return jax.tree.map(lambda _: f(path(keys)), node)

    return jax.tree_util.tree_map_with_path(at, tree, is_leaf=_boxed)


def selector(who: str, mask: Mask, name: str = "mask") -> Callable[[Tree], Tree]:
    """Return a mask as `optax.masked` takes it: a regular expression over paths becomes a function of parameters."""
    if not isinstance(mask, str):
        leaves = [] if is_function(mask) else jax.tree.leaves(mask)
        if any(isinstance(x, str) or (isinstance(x, (int, float, np.generic)) and x not in (0, 1)) for x in leaves):
            raise ValueError(f"{who}: {name} must be a pattern, or a tree or a function of booleans, got {mask!r}.")
        return functools.partial(_masking, who, name, mask)
    try:
        re.compile(mask)
    except re.error as error:
        must = "must be a regular expression over whole paths"
        raise ValueError(f"{who}: {name} {must}, got {mask!r}: {error}.") from error
    return functools.partial(_matching, who, name, mask)


def is_function(x: object) -> bool:
    """Return whether this is a function of the parameters; a callable tree (a module, say) of labels is not."""
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(map(callable, leaves))


def _masking(who: str, name: str, mask: Any, params: Tree) -> Tree:
    """Return the mask that is given, or that a function of the parameters returns, if it is a prefix of their tree."""
    found = mask(params) if is_function(mask) else mask
    try:
        jax.tree.map(lambda _, part: part, found, params)
    except (TypeError, ValueError) as error:
        paths = listed([path for path, _ in leaves_with_paths(params)])
        of_mask = listed([path for path, _ in leaves_with_paths(found)])
        must = f"must be a tree of booleans like the parameters, whose paths are {paths}, or a prefix of it"
        raise ValueError(f"{who}: {name} {must}; its own paths are {of_mask or 'none'}.") from error
    for x in jax.tree.leaves(found):
        if isinstance(x, str) or jnp.ndim(x) or (isinstance(x, (int, float, np.generic)) and x not in (0, 1)):
            raise ValueError(f"{who}: {name} must return booleans, got {x!r:.200}.")
    return jax.tree.map(lambda x: bool(x) if isinstance(x, (int, float, np.generic)) else x, found)


def _matching(who: str, name: str, pattern: str, params: Tree) -> Tree:
    matched = map_paths(lambda path: re.fullmatch(pattern, path) is not None, params)
    left_out = [leaf for leaf in jax.tree.leaves(params, is_leaf=_left_out) if _left_out(leaf)]
    if jax.tree.leaves(matched) and not any(jax.tree.leaves(matched)) and not left_out:  # it may match what is left out
        paths = listed([path for path, _ in leaves_with_paths(params)])
        must = "must match one path at least"
        raise ValueError(f"{who}: {name} {must}, got the pattern {pattern!r}; the paths are {paths}.")
    return matched


def _left_out(node: Any) -> bool:
    return node is None or is_absent(node)


def is_masked(node: object) -> bool:
    """Return whether a node replaces a leaf that a mask leaves out."""
    return isinstance(node, optax.MaskedNode)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Absent:
    """A node without leaves that stands for an array without an update, and holds its type."""

    type: Any


def is_absent(node: object) -> bool:
    """Return whether a node stands for an array that has no update."""
    return isinstance(node, Absent)


def filled(tree: Tree) -> Tree:
    """Replace every array that has no update by zeros."""
    return jax.tree.map(lambda x: _zeros(x.type) if is_absent(x) else x, tree, is_leaf=is_absent)


def emptied(tree: Tree, like: Tree) -> Tree:
    """Put `Absent` where another tree has it."""
    return jax.tree.map(lambda x, own: x if is_absent(x) else own, like, tree, is_leaf=is_absent)


def absent_leaves(tree: Tree) -> list[bool]:
    """Return for each leaf of the filled tree whether it has no update."""
    return [is_absent(leaf) for leaf in jax.tree.leaves(tree, is_leaf=is_absent)]


def _zeros(of: Any) -> jax.Array:
    x = jnp.zeros(of.shape, of.dtype, device=of.sharding if of.sharding.mesh.explicit_axes else None)
    return axes.cast_varying(x, of.manual_axis_type.varying)


def _boxed(node: Any) -> bool:
    """Return whether a node is a Flax box around one parameter (an NNX variable, Linen metadata).

    NNX shows a parameter as `kernel.value` at `init` and as `kernel` at `update`, so the path leaves the box out.
    """
    return hasattr(type(node), "get_metadata") or hasattr(type(node), "replace_boxed")


def boxes(tree: Tree) -> Iterator[tuple[str, Any]]:
    """Yield `(path, box)` for every box of Flax around a parameter."""
    for keys, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_boxed)[0]:
        if _boxed(node):
            yield path(keys), node


def as_dtype(x: Any, dtype: DTypeLike) -> jax.Array:
    """Return `x` as an array of a dtype; `x` itself if it is one, so that nothing is traced."""
    same = isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type
    return x if same else jnp.asarray(x, dtype)


def _dtype(x: Any) -> np.dtype:
    """Return the dtype of a number or an array; `jnp.result_type` takes microseconds for an array."""
    return x.dtype if isinstance(x, jax.Array) else jnp.result_type(x)


@functools.cache
def wide(dtype: np.dtype) -> np.dtype:
    """Return the dtype in which numbers of a dtype are accumulated: the dtype itself, or float32 if that is wider.

    >>> import jax.numpy as jnp
    >>> wide(jnp.dtype("bfloat16"))
    dtype('float32')
    """
    return dtype if jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32 else np.dtype("float32")


@functools.cache
def is_narrow(dtype: np.dtype | None) -> bool:
    """Return whether a dtype is one of floating-point numbers of 16 bits or fewer; `None`, that of no array, is not."""
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def widen(tree: Tree) -> Tree:
    """Return every leaf in the dtype in which it is accumulated."""
    return jax.tree.map(_widen, tree)


def _widen(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return jnp.asarray(x, wide(jnp.result_type(x)))
    dtype = wide(x.dtype)
    return x if x.dtype == dtype and not x.weak_type else jnp.asarray(x, dtype)


def upcast(tree: Tree) -> Tree:
    """Return floating-point leaves as arrays of at least float32, and all other leaves unchanged."""
    for x in jax.tree.leaves(tree):
        if not isinstance(x, jax.Array) or is_narrow(x.dtype) or x.weak_type:
            return jax.tree.map(_upcast, tree)
    return tree


def _upcast(x: Any) -> Any:
    is_number = isinstance(x, (jax.Array, np.ndarray, np.generic, float, complex))
    return _widen(x) if is_number and jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x


def cast_like(tree: Tree, other_tree: Tree) -> Tree:
    """Return every leaf in the dtype of its counterpart. Their shapes must be equal, so that nothing broadcasts."""
    try:
        return jax.tree.map(_cast_like, tree, other_tree)
    except (TypeError, ValueError) as error:
        where = difference(tree, other_tree, "the result", "the other")
        if where is None:
            raise
        raise ValueError(f"cast_like: the result and what it must be like differ {where}.") from error


def _cast_like(x: Any, like: Any) -> Any:
    if isinstance(x, jax.Array) and isinstance(like, jax.Array) and x.shape == like.shape:
        return x if x.dtype == like.dtype and not x.weak_type else jnp.asarray(x, like.dtype)
    _require_same_shape(x, like)
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, jnp.result_type(like), sharding=x.sharding)
    return as_dtype(x, _dtype(like))


def typed_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """Return an array with the sharding over Explicit axes of its counterpart."""
    ours, theirs = (jax.typeof(of).sharding for of in (x, like))
    return jax.reshard(x, theirs) if theirs.mesh.explicit_axes and ours.spec != theirs.spec else x


def require_same_shapes(tree: Tree, like: Tree) -> None:
    """Refuse leaves whose shapes are not those of their counterparts."""
    jax.tree.map(_require_same_shape, tree, like)


def _require_same_shape(x: Any, like: Any) -> None:
    if jnp.shape(x) != jnp.shape(like):
        raise ValueError(f"shape {jnp.shape(x)} came of shape {jnp.shape(like)}")


def difference(ours: Tree, theirs: Tree, our_name: str, their_name: str) -> str | None:
    """Return the first place where two trees differ in structure or shape, in words; `None` if there is none."""
    a, b = dict(leaves_with_paths(ours)), dict(leaves_with_paths(theirs))
    for path in [*a, *(path for path in b if path not in a)]:
        if path not in a or path not in b or jnp.shape(a[path]) != jnp.shape(b[path]):
            return f"at {path!r}: {short(a.get(path))} in {our_name}, {short(b.get(path))} in {their_name}"
    structures = [str(jax.tree.structure(x)) for x in (ours, theirs)]
    shapes = [text.removeprefix("PyTreeDef(").removesuffix(")")[:200] for text in structures]
    return f"in structure: {our_name} is {shapes[0]}, {their_name} {shapes[1]}" if shapes[0] != shapes[1] else None


def short(leaf: Any) -> str:
    """Write a leaf as `float32[3,4]`."""
    if leaf is None:
        return "nothing"
    if not hasattr(leaf, "dtype"):
        return shown(leaf)
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def shown(x: Any) -> str:
    """Write anything for an error, 200 characters at most: an array by its type, a function by its name."""
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return short(x)
    leaves = jax.tree.leaves(x)
    if len(leaves) > 8:
        return f"a {type(x).__name__} of {len(leaves)} leaves"
    words = f"<{name}>" if (name := function_name(x)) else repr(x)
    return words if len(words) <= 200 else f"{words[:197]}..."


def listed(names: list[str]) -> str:
    """Write at most 20 names for an error."""
    shown = ", ".join(map(repr, names[:20]))
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def scalar(number: Any, like: jax.Array | np.ndarray) -> Any:
    """Return a hyperparameter that promotes nothing: an array in the real dtype of `like`, or a Python number."""
    if isinstance(number, float):
        return number
    if jnp.ndim(number) and jnp.size(number) == 1:
        number = jnp.reshape(number, ())
    if jnp.ndim(number):
        shape = jnp.shape(number)
        raise ValueError(f"a hyperparameter must be a scalar here, got shape {shape}; a stacked value is for jax.vmap")
    return as_dtype(number, real_dtype(like.dtype))


@functools.cache
def real_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype of the real part of numbers of a dtype."""
    return jnp.finfo(dtype).dtype


def real_part(x: jax.Array) -> jax.Array:
    """Return the real part of an array."""
    return x.real if jnp.iscomplexobj(x) else x


def accumulators(params: Tree, value: ArrayLike, dtype: DTypeLike | None = None) -> Tree:
    """Return new buffers of one value, shaped and sharded like the parameters, in `dtype` or the accumulation dtype.

    Buffers of complex parameters are complex, in the precision of `dtype` if JAX has it.
    """
    kept = _keeping(dtype)
    return jax.tree.map(lambda p: jnp.full_like(p, value, dtype=kept(p)), params)


def copies(params: Tree, dtype: DTypeLike | None = None) -> Tree:
    """Return copies of the parameters in new buffers, in the dtypes of `accumulators`."""
    kept = _keeping(dtype)
    return jax.tree.map(lambda p: fresh(p, kept(p)), params)


def _keeping(dtype: Any) -> Callable[[Any], Any]:
    """Return a function that returns the dtype of a parameter's accumulator."""
    if dtype is None:
        return lambda p: wide(jnp.result_type(p))
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"the dtype of an accumulator must be floating or complex, got {dtype}")
    return lambda p: jnp.promote_types(dtype, jnp.complex64) if jnp.iscomplexobj(p) else dtype


def fresh(x: Tree, dtype: DTypeLike | None = None) -> Tree:
    """Return copies in new buffers, so that donating them does not delete the caller's arrays."""
    return jax.tree.map(lambda x: jnp.array(x, dtype or jnp.result_type(x), copy=True), x)


def abs_sq(x: jax.Array) -> jax.Array:
    """Return `|x|^2`, real."""
    return lax.square(x.real) + lax.square(x.imag) if jnp.iscomplexobj(x) else lax.square(x)  # a third of jnp's trace


def root(x: jax.Array, offset: float | jax.Array = 0.0) -> jax.Array:
    """Return `sqrt(x + offset)` with a finite derivative at 0.

    It adds the smallest normal number of the dtype, which changes no root visibly. Without it the infinite derivative
    at 0 would meet a 0 in hypergradients and become NaN.
    """
    return lax.sqrt(x + (offset + jnp.finfo(x.dtype).tiny))


def __getattr__(name: str) -> Any:
    """Find a name of `optax.tree`: it is that of `gdjax.tree_utils` without the prefix."""
    if name.startswith("_") or not hasattr(optax.tree, name):
        raise AttributeError(f"module 'gdjax.tree' has no attribute {name!r}")
    return getattr(importlib.import_module("gdjax.tree_utils"), f"tree_{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(optax.tree)})
