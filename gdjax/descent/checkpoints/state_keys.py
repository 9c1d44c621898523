"""Keys for the arrays of an optimizer's state, stable when the transforms around them change."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from gdjax import prng, tree
from gdjax.compose.watch import WatchState
from gdjax.wrappers.accumulate import sum_scale

State = TypeVar("State")

WATCH = "watch:"
"""Prefix of the keys of norms recorded by a `watch`: only these may be missing or left over."""
ADDED = {"Accumulate/weight": "Accumulate/mini_step"}
"""Fields that older checkpoints lack, and the fields with the same value: each gradient counted as 1 then."""


def state_arrays(state: optax.OptState) -> dict[str, Any]:
    """Return the arrays of a state by key: the classes and fields of states, then the path of the parameter.

    The position in a chain is not part of the key, nor is a `watch` around it. So neither these nor parts without
    arrays change the keys of the others. Where two arrays would share a key, the second gets `#2`. Typed PRNG keys
    are returned as their data.

    Args:
      state: the state of any transform, of arrays or of `jax.ShapeDtypeStruct`.

    >>> import gdjax as gd
    >>> list(state_arrays(gd.watch(gd.adam(0.1)).init({"w": jnp.zeros(2)})))[:2]
    ['ScaleByAdam/count', 'ScaleByAdam/mu/w']
    """
    return {key: prng.raw(leaf) for key, leaf in zip(_keys(state), jax.tree.leaves(state), strict=True)}


def restore_state(arrays: Mapping[str, Any], like: State) -> State:
    """Return the state with these arrays.

    The norms that a `watch` recorded may be missing, and are then those of `like`.

    Args:
      arrays: the result of `state_arrays`.
      like: a state of the same transform, of arrays or of `jax.ShapeDtypeStruct`, which counts as zeros.

    Raises:
      ValueError: if arrays are missing, left over, or of another shape or dtype; the message has their keys.
    """
    keys, (leaves, treedef) = _keys(like), jax.tree.flatten(like)
    arrays = _upgrade(arrays, dict(zip(keys, leaves, strict=True)))
    missing = {key for key in keys if _is_watched(key) and key not in arrays}
    defaults = [leaf if key in missing else None for key, leaf in zip(keys, leaves, strict=True)]
    wrong = [
        f"{key!r} must be {tree.short(prng.raw(leaf))}, got {tree.short(arrays.get(key))}"
        for key, leaf, default in zip(keys, leaves, defaults, strict=True)
        if default is None and tree.short(arrays.get(key)) != tree.short(prng.raw(leaf))
    ]
    wrong += [f"{key!r} has no place in it" for key in arrays if key not in set(keys) and not _is_watched(key)]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"restore_state: the arrays do not fit the state: {'; '.join(wrong[:5])}{more}. "
            "Restore them under the optimizer and the parameters with which they were saved."
        )
    restored = [
        prng.typed_like(arrays[key], leaf) if default is None else prng.zeros_if_abstract(default)
        for key, leaf, default in zip(keys, leaves, defaults, strict=True)
    ]
    return treedef.unflatten(restored)


def _upgrade(arrays: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields that an older checkpoint lacks."""
    upgraded = {**arrays}
    for key in like.keys() - arrays.keys():
        for new, old in ADDED.items():
            if (source := key.replace(new, old)) != key and source in arrays:
                upgraded[key] = jnp.asarray(arrays[source]).astype(like[key].dtype)
    return _scale_sums(upgraded, like)


def _scale_sums(arrays: dict[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Scale the sums of gradients of an older checkpoint, which holds them unscaled under another key."""
    weight = ""
    for key in reversed(list(like)):  # the leaf after the sums is their weight
        old = key.replace("Accumulate/scaled_grads", "Accumulate/acc_grads")
        if "Accumulate/weight" in key:
            weight = key
        elif key not in arrays and old in arrays and weight in arrays:
            total = jnp.asarray(arrays.pop(old))
            scale = sum_scale(jnp.asarray(arrays[weight]), total.dtype).astype(total.dtype)
            arrays[key] = total * scale.reshape(*scale.shape, *[1] * (total.ndim - scale.ndim))
    return arrays


def _keys(state: Any) -> list[str]:
    """Return a key for every leaf, in the order of `jax.tree.leaves`."""
    treedef = jax.tree.structure(state)
    by_index = dict(_walk(treedef.unflatten(range(treedef.num_leaves)), ()))
    count: Counter[str] = Counter()
    keys = []
    for key in map(by_index.__getitem__, range(treedef.num_leaves)):
        count[key] += 1
        keys.append(key if count[key] == 1 else f"{key}#{count[key]}")
    return keys


def _walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """Yield the indices of leaves with their keys, through states; a tree of parameters gets its own paths."""
    if isinstance(node, WatchState):
        yield from ((index, "/".join([*path, WATCH + name])) for name, index in node.seen.items())
        yield from _walk(node.inner_state, path)
    elif _is_state(node):
        for field, child in node._asdict().items():
            within = (*path, type(node).__name__.removesuffix("State"), field)
            yield from _walk(child, within) if "state" in field else _walk_params(child, within)
    elif type(node) is tuple and _is_chain_state(node):
        for child in node:
            yield from _walk(child, path)
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _walk(child, (*path, str(name)))
    else:
        yield from _walk_params(node, path)


def _is_chain_state(node: Any) -> bool:
    """Return whether a tuple holds states: a tree of parameters holds no class of states."""
    return any(map(_is_state, jax.tree.leaves(node, is_leaf=_is_state)))


def _is_state(node: Any) -> bool:
    return hasattr(node, "_fields") and not isinstance(node, optax.MaskedNode)


def _walk_params(node: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for name, index in tree.leaves_with_paths(node):
        yield index, "/".join([*path, name] if name else path)


def _is_watched(key: str) -> bool:
    return any(name.startswith(WATCH) for name in key.split("/"))
