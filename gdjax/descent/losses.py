"""What a loss takes, and what it returns."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.value.diagnose import difference, short


def called(
    loss: Callable[..., Any], has_aux: bool | None, who: str
) -> Callable[..., tuple[jax.Array, tuple[Any, Any]]]:
    """The loss as a function of `(params, batch, key, extra)` that returns `(value, (extra, aux))`."""
    takes_key, takes_extra, needs_extra = _takes(loss, who)

    def whole(params: Any, batch: Any, key: Any, extra: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        keys = (key,) if takes_key else ()
        handed = needs_extra or (takes_extra and extra is not None)
        returned = loss(params, batch, *keys, **({"extra": extra} if handed else {}))
        try:
            value, new, aux = _taken_apart(returned, extra, handed, has_aux)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{who}: {error}") from None
        return jnp.asarray(value), (new, aux)

    return whole


def _takes(loss: Callable[..., Any], who: str) -> tuple[bool, bool, bool]:
    """Whether a loss takes a key, by position after the batch, and `extra`, by name, and whether it must have that."""
    parameters = dict(inspect.signature(loss).parameters)
    extra = parameters.pop("extra", None)
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    further = [p.name for p in positional[2:] if p.default is p.empty or p.name == "key"]
    if len(further) > 1 or (len(positional) < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters.values())):
        raise TypeError(
            f"{who}: loss must take (params, batch), then perhaps a key, and `extra` by name; it takes "
            f"{inspect.signature(loss)}. Fix the others by functools.partial."
        )
    return bool(further), extra is not None, extra is not None and extra.default is extra.empty


def _taken_apart(returned: Any, extra: Any, takes_extra: bool, has_aux: bool | None) -> tuple[Any, Any, Any]:
    """The value, the new `extra` and `aux`."""
    pair = isinstance(returned, tuple) and len(returned) == 2
    if not pair and (has_aux or takes_extra):
        what = "(extra, aux)" if has_aux and takes_extra else "extra" if takes_extra else "aux"
        raise TypeError(f"loss must return (scalar, {what}), got {_kind(returned)}.")
    nested = pair and isinstance(returned[1], tuple) and len(returned[1]) == 2
    asked = has_aux
    if has_aux is None:
        has_aux = (nested and _differing(returned[1], extra) is not None) if takes_extra else pair
    rest: Any = None
    if has_aux or takes_extra:
        returned, rest = returned
    if isinstance(returned, (tuple, list, dict)):
        way = "; has_aux=True is for (scalar, aux)" if asked is False else ""
        raise TypeError(f"loss must return a scalar, got {_kind(returned)}{way}.")
    if jnp.shape(returned) or not jnp.issubdtype(jnp.result_type(returned), jnp.floating):
        way = "; take its mean" if jnp.shape(returned) else ""
        raise TypeError(f"loss must return a real floating scalar, got {short(jnp.asarray(returned))}{way}.")
    if not takes_extra:
        return returned, extra, rest
    if has_aux and not nested:
        raise TypeError(f"loss must return (scalar, (extra, aux)), got {_kind(rest)} beside the scalar.")
    new, aux = rest if has_aux else (rest, None)
    if where := _differing(new, extra):
        raise ValueError(f"loss must return `extra` of the type that it was given: {where}.")
    return returned, new, aux


def _differing(new: Any, extra: Any) -> str | None:
    """Where `extra` is another tree, or of another shape or dtype."""
    names = "what it returned", "what it was given"
    if where := difference(new, extra, *names):
        return where
    for (path, a), b in zip(tree.leaves_with_paths(new), jax.tree.leaves(extra), strict=True):
        if jnp.result_type(a) != jnp.result_type(b):
            return f"at {path!r}: {short(jnp.asarray(a))} in {names[0]}, {short(jnp.asarray(b))} in {names[1]}"
    return None


def _kind(returned: Any) -> str:
    return f"a {type(returned).__name__}" if isinstance(returned, (tuple, list, dict)) else short(jnp.asarray(returned))
