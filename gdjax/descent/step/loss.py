"""The arguments that a loss takes, and the values that it returns."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.value.printing import brief

Loss = Callable[..., Any]
"""`loss(params, batch)`, then perhaps a key, and `extra` by name."""
FullLoss = Callable[[Any, Any, Any, Any], tuple[jax.Array, tuple[Any, Any]]]
"""`loss(params, batch, key, extra)`, which returns `(value, (extra, aux))`."""

_NO_KEYS = {"y", "label", "target", "x", "input", "image", "output", "y_true", "weight", "mask"}
"""Names of arguments that are not keys, without a plural s."""


def full_loss(loss: Loss, has_aux: bool | None, who: str) -> FullLoss:
    """Return the loss with the full signature: `(params, batch, key, extra) -> (value, (extra, aux))`.

    Args:
      loss: the user's function.
      has_aux: does it return `aux`? `None` decides by the value that it returns.
      who: the public function, named in errors.
    """
    takes_key, takes_extra, needs_extra = _loss_parameters(loss, who)

    def full(params: Any, batch: Any, key: Any, extra: Any) -> tuple[jax.Array, tuple[Any, Any]]:
        keys = (key,) if takes_key else ()
        gets_extra = needs_extra or (takes_extra and extra is not None)
        if who == "make_step" and extra is not None and not takes_extra:
            raise TypeError(
                f"{who}: the state has `extra`, and the loss takes none. Give the loss a parameter `extra`, or leave "
                "it out of State.create."
            )
        fresh = jax.tree.map(lambda x: x, extra)  # an NNX variable can be set only in the trace that made it
        with _nnx_hint(who):
            returned = loss(params, batch, *keys, **({"extra": fresh} if gets_extra else {}))
        try:
            value, new_extra, aux = _split_returned(returned, extra, gets_extra, has_aux)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{who}: {error}") from None
        return jnp.asarray(value), (new_extra, aux)

    return full


@contextlib.contextmanager
def _nnx_hint(who: str) -> Iterator[None]:
    """Add a note to an error of Flax: how to return the variables that a module changes."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "TraceContextError":
            error.add_note(
                f"{who}: the loss sets an NNX variable that it closes over, such as the statistics of BatchNorm. "
                "Split the model: graphdef, params, rest = nnx.split(model, nnx.Param, ...). Begin with "
                "State.create(params, tx, extra=rest), and return (scalar, extra) from loss(params, batch, *, extra): "
                "model = nnx.merge(graphdef, params, extra), and after its call extra = nnx.state(model, "
                "nnx.Not(nnx.Param))."
            )
        raise


def require_loss(who: str, loss: object, params: object = None) -> None:
    """Raise unless the loss is a function; the error says what to pass instead.

    Args:
      who: the function that was called.
      loss: its first argument.
      params: its second.
    """
    if callable(loss) and not isinstance(loss, optax.GradientTransformation):
        return
    hint = ""
    if hasattr(loss, "loss"):
        hint = "; give its loss"
    elif callable(params):
        hint = "; the loss comes first"
    elif getattr(loss, "shape", None) == () or isinstance(loss, float):
        hint = "; give the function, not its result"
    raise TypeError(f"{who}: loss must be a function of (params, batch), got {brief(loss)}{hint}.")


def _loss_parameters(loss: Loss, who: str) -> tuple[bool, bool, bool]:
    """Return three flags: the loss takes a key after the batch, takes `extra` by name, and requires `extra`."""
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
            f"{further[0]!r}; write loss(params, batch), and unpack the batch inside: x, y = batch."
        )
    return bool(further), extra is not None, extra is not None and extra.default is extra.empty


def _split_returned(returned: Any, extra: Any, takes_extra: bool, has_aux: bool | None) -> tuple[Any, Any, Any]:
    """Return the value, the new `extra` and `aux`."""
    pair = isinstance(returned, tuple) and len(returned) == 2
    if not pair and (has_aux or takes_extra):
        expected = "(extra, aux)" if has_aux and takes_extra else "extra" if takes_extra else "aux"
        raise TypeError(f"loss must return (scalar, {expected}), got {_describe(returned)}.")
    nested = pair and isinstance(returned[1], tuple) and len(returned[1]) == 2
    requested = has_aux
    if has_aux is None:
        has_aux = (nested and _extra_difference(returned[1], extra) is not None) if takes_extra else pair
    rest: Any = None
    if has_aux or takes_extra:
        returned, rest = returned
    if returned is None:
        raise TypeError("loss must return a scalar, got None; it lacks a return.")
    if isinstance(returned, (tuple, list, dict)):
        hint = "; has_aux=True is for (scalar, aux)" if requested is False else ""
        raise TypeError(f"loss must return a scalar, got {_describe(returned)}{hint}.")
    if isinstance(returned, str):
        raise TypeError(f"loss must return a scalar, got {returned!r}.")
    if jnp.shape(returned) or not jnp.issubdtype(jnp.result_type(returned), jnp.floating):
        hint = "; take its mean" if jnp.shape(returned) else ""
        raise TypeError(f"loss must return a real floating scalar, got {tree.short(jnp.asarray(returned))}{hint}.")
    if not takes_extra:
        return returned, extra, rest
    if has_aux and not nested:
        raise TypeError(f"loss must return (scalar, (extra, aux)), got {_describe(rest)} beside the scalar.")
    new_extra, aux = rest if has_aux else (rest, None)
    if difference := _extra_difference(new_extra, extra):
        raise ValueError(f"loss must return `extra` of the same type as it received: {difference}.")
    return returned, new_extra, aux


def _extra_difference(new: Any, extra: Any) -> str | None:
    """Describe the first difference in structure, shape or dtype between two `extra`; `None` if there is none."""
    names = "the returned `extra`", "the received one"
    if difference := tree.difference(new, extra, *names):
        return difference
    for (path, a), b in zip(tree.leaves_with_paths(new), jax.tree.leaves(extra), strict=True):
        if jnp.result_type(a) != jnp.result_type(b):
            ours, theirs = (tree.short(jnp.asarray(x)) for x in (a, b))
            return f"at {path!r}: {ours} in {names[0]}, {theirs} in {names[1]}"
    return None


def _describe(returned: Any) -> str:
    if isinstance(returned, (tuple, list, dict)) or returned is None:
        return "None" if returned is None else f"a {type(returned).__name__}"
    return tree.short(jnp.asarray(returned))
