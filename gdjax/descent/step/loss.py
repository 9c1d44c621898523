"""What a loss takes, and what it returns."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.value.printing import brief


def called(
    loss: Callable[..., Any], has_aux: bool | None, who: str
) -> Callable[..., tuple[jax.Array, tuple[Any, Any]]]:
    """The loss as a function of `(params, batch, key, extra)` that returns `(value, (extra, aux))`."""
    takes_key, takes_extra, needs_extra = _takes(loss, who)

    def whole(params: Any, batch: Any, key: Any, extra: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        keys = (key,) if takes_key else ()
        handed = needs_extra or (takes_extra and extra is not None)
        if who == "make_step" and extra is not None and not takes_extra:
            raise TypeError(
                f"{who}: the state has `extra`, and the loss takes none. Give the loss a parameter `extra`, or leave "
                "it out of State.create."
            )
        own = jax.tree.map(lambda x: x, extra)  # new variables of NNX: they can be set only in the trace that made them
        with _explained(who):
            returned = loss(params, batch, *keys, **({"extra": own} if handed else {}))
        try:
            value, new, aux = _taken_apart(returned, extra, handed, has_aux)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{who}: {error}") from None
        return jnp.asarray(value), (new, aux)

    return whole


@contextlib.contextmanager
def _explained(who: str) -> Iterator[None]:
    """Add a note to an error of Flax: how a loss returns the variables that a module changes."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "TraceContextError":
            error.add_note(
                f"{who}: the loss sets a variable of NNX that it closes over, such as the statistics of BatchNorm. "
                "Split the model, graphdef, params, rest = nnx.split(model, nnx.Param, ...), begin with "
                "State.create(params, tx, extra=rest), and return (scalar, extra) from loss(params, batch, *, extra): "
                "model = nnx.merge(graphdef, params, extra), and after its call extra = nnx.state(model, "
                "nnx.Not(nnx.Param))."
            )
        raise


def require_loss(who: str, loss: Any, params: Any = None) -> None:
    """Refuse a loss that is not a function, and say what to give instead.

    Args:
      who: the function that was called.
      loss: its first argument.
      params: its second.
    """
    if callable(loss) and not isinstance(loss, optax.GradientTransformation):
        return
    way = ""
    if hasattr(loss, "loss"):
        way = "; give its loss"
    elif callable(params):
        way = "; the loss comes first"
    elif getattr(loss, "shape", None) == () or isinstance(loss, float):
        way = "; give the function, not what it returned"
    raise TypeError(f"{who}: loss must be a function of (params, batch), got {brief(loss)}{way}.")


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
    if further and (further[0].lower().rstrip("s") in _NO_KEYS):
        raise TypeError(
            f"{who}: loss gets the whole batch as its second argument and a PRNG key as its third, which it calls "
            f"{further[0]!r}; write loss(params, batch), and take the batch apart in it: x, y = batch."
        )
    return bool(further), extra is not None, extra is not None and extra.default is extra.empty


_NO_KEYS = {"y", "label", "target", "x", "input", "image", "output", "y_true", "weight", "mask"}
"""Names of arguments that are not keys, without a plural s."""


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
    if returned is None:
        raise TypeError("loss must return a scalar, got None; it lacks a return.")
    if isinstance(returned, (tuple, list, dict)):
        way = "; has_aux=True is for (scalar, aux)" if asked is False else ""
        raise TypeError(f"loss must return a scalar, got {_kind(returned)}{way}.")
    if isinstance(returned, str):
        raise TypeError(f"loss must return a scalar, got {returned!r}.")
    if jnp.shape(returned) or not jnp.issubdtype(jnp.result_type(returned), jnp.floating):
        way = "; take its mean" if jnp.shape(returned) else ""
        raise TypeError(f"loss must return a real floating scalar, got {tree.short(jnp.asarray(returned))}{way}.")
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
    if where := tree.difference(new, extra, *names):
        return where
    for (path, a), b in zip(tree.leaves_with_paths(new), jax.tree.leaves(extra), strict=True):
        if jnp.result_type(a) != jnp.result_type(b):
            ours, theirs = (tree.short(jnp.asarray(x)) for x in (a, b))
            return f"at {path!r}: {ours} in {names[0]}, {theirs} in {names[1]}"
    return None


def _kind(returned: Any) -> str:
    if isinstance(returned, (tuple, list, dict)) or returned is None:
        return "None" if returned is None else f"a {type(returned).__name__}"
    return tree.short(jnp.asarray(returned))
