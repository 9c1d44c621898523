"""The arrays of an optimizer's state by keys that outlive a change of what is around them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import prng, tree
from gdjax.compose.watch import WatchState
from gdjax.wrappers.accumulate import sum_scale

SEEN = "watch:"
"""What the keys of norms begin with that a `watch` recorded: these alone may be missing, or left over."""


ADDED = {"Accumulate/weight": "Accumulate/mini_step"}
"""Fields that older checkpoints lack, and the fields that held their value, since each gradient counted as 1."""


def keyed(state: Any) -> dict[str, Any]:
    """The arrays of a state by key: the classes and fields of states, then the path of the parameter.

    The place of a part in a chain is no part of the key, nor is a `watch` around it, so that neither these nor parts
    without arrays of their own change the keys of the others. Where two would have one key, the second gets `#2`.
    Typed PRNG keys are given as their data.

    Args:
      state: the state of any transform, of arrays or of `jax.ShapeDtypeStruct`.

    >>> import gdjax as gd
    >>> list(keyed(gd.watch(gd.adam(0.1)).init({"w": jnp.zeros(2)})))[:2]
    ['ScaleByAdam/count', 'ScaleByAdam/mu/w']
    """
    return {key: prng.plain(leaf) for key, leaf in zip(_keys(state), jax.tree.leaves(state), strict=True)}


def unkeyed(arrays: Mapping[str, Any], like: Any) -> Any:
    """The state whose arrays these are.

    The norms that a `watch` saw may be missing, and are then those of `like`.

    Args:
      arrays: what `keyed` made of a state.
      like: a state of the same transform, of arrays or of `jax.ShapeDtypeStruct`, which counts as zeros.

    Raises:
      ValueError: if arrays are missing, left over, or of another shape or dtype, with their keys.
    """
    keys, (leaves, treedef) = _keys(like), jax.tree.flatten(like)
    arrays = _completed(arrays, dict(zip(keys, leaves, strict=True)))
    kept = [leaf if _seen(key) and key not in arrays else None for key, leaf in zip(keys, leaves, strict=True)]
    wrong = [
        f"{key!r} must be {tree.short(prng.plain(leaf))}, got {tree.short(arrays.get(key))}"
        for key, leaf, own in zip(keys, leaves, kept, strict=True)
        if own is None and tree.short(arrays.get(key)) != tree.short(prng.plain(leaf))
    ]
    wrong += [f"{key!r} has no place in it" for key in arrays if key not in set(keys) and not _seen(key)]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"unkeyed: the arrays are not those asked for: {'; '.join(wrong[:5])}{more}. "
            "Restore them under the optimizer and the parameters that they were saved of."
        )
    found = [
        prng.typed(arrays[key], leaf) if own is None else prng.filled(own)
        for key, leaf, own in zip(keys, leaves, kept, strict=True)
    ]
    return treedef.unflatten(found)


def _completed(arrays: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields that an older checkpoint lacks."""
    found = {**arrays}
    for key in like.keys() - arrays.keys():
        for new, old in ADDED.items():
            if (source := key.replace(new, old)) != key and source in arrays:
                found[key] = jnp.asarray(arrays[source]).astype(like[key].dtype)
    return _scaled(found, like)


def _scaled(found: dict[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Scale the sums of gradients of an older checkpoint, which are stored unscaled under another key."""
    weight = ""
    for key in reversed(list(like)):  # the leaf after the sums is their weight
        old = key.replace("Accumulate/scaled_grads", "Accumulate/acc_grads")
        if "Accumulate/weight" in key:
            weight = key
        elif key not in found and old in found and weight in found:
            total = jnp.asarray(found.pop(old))
            scale = sum_scale(jnp.asarray(found[weight]), total.dtype).astype(total.dtype)
            found[key] = total * scale.reshape(*scale.shape, *[1] * (total.ndim - scale.ndim))
    return found


def _keys(state: Any) -> list[str]:
    """A key for every leaf, in the order of `jax.tree.leaves`."""
    treedef = jax.tree.structure(state)
    found = dict(_walk(treedef.unflatten(range(treedef.num_leaves)), ()))
    count: Counter[str] = Counter()
    keys = []
    for key in map(found.__getitem__, range(treedef.num_leaves)):
        count[key] += 1
        keys.append(key if count[key] == 1 else f"{key}#{count[key]}")
    return keys


def _walk(node: Any, way: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """Yield the places of leaves with their keys, those of states: what holds parameters has their paths."""
    if isinstance(node, WatchState):
        yield from ((place, "/".join([*way, SEEN + name])) for name, place in node.seen.items())
        yield from _walk(node.inner_state, way)
    elif _is_state(node):
        for field, child in node._asdict().items():
            within = (*way, type(node).__name__.removesuffix("State"), field)
            yield from _walk(child, within) if "state" in field else _leaves(child, within)
    elif type(node) is tuple and _holds_states(node):
        for child in node:
            yield from _walk(child, way)
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _walk(child, (*way, str(name)))
    else:
        yield from _leaves(node, way)


def _holds_states(node: Any) -> bool:
    """Whether a tuple is the state of a chain: a tree of parameters has no class of states within."""
    return any(map(_is_state, jax.tree.leaves(node, is_leaf=_is_state)))


def _is_state(node: Any) -> bool:
    return hasattr(node, "_fields") and not isinstance(node, optax.MaskedNode)


def _leaves(node: Any, way: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for path, place in tree.leaves_with_paths(node):
        yield place, "/".join([*way, path] if path else way)


def _seen(key: str) -> bool:
    return any(name.startswith(SEEN) for name in key.split("/"))
