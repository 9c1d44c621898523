"""Traits that factories declare of their transforms, and searches for them in a transform and its parts."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import jax
import optax

from gdjax import axes, tree
from gdjax.tree import Tree
from gdjax.value.base import V, Value
from gdjax.weighted_means import total_weight


@dataclasses.dataclass(frozen=True)
class Traits:
    """Kinds of gradients and parameters that a transform takes."""

    packable: bool = False
    """True if it may see all leaves as one vector."""
    shardable: bool = False
    """True if it may see a shard of every leaf, padded with zeros."""
    takes_local_grads: bool = False
    """True if it takes per-device gradients over an axis."""
    local_params: bool = False
    """True if the parameters are per-device, too."""
    examples: bool = False
    """True if it takes a gradient for every example, not their mean."""
    rereads_updates: bool = False
    """True if it reads the updates twice, and takes a function that computes them again."""
    upcast: bool = False
    """True if its functions see updates and state in at least float32, and what they return is rounded."""
    passes: bool = False
    """True if it only passes leaves on, of any dtype (lifted transforms)."""
    real: bool = False
    """True if it takes real leaves alone (lifted transforms)."""

    @classmethod
    def of(
        cls,
        elementwise: bool = False,
        packable: bool = False,
        shardable: bool = False,
        takes_local_grads: bool = False,
        local_params: bool = False,
        examples: bool = False,
        rereads_updates: bool = False,
        upcast: bool = False,
    ) -> "Traits":
        """Return the traits declared; an elementwise transform may be given one vector, or parts of leaves."""
        vector, shards = packable or elementwise, shardable or elementwise
        return cls(vector, shards, takes_local_grads, local_params, examples, rereads_updates, upcast)


NONE = Traits()


class Declared(TypedDict, total=False):
    """Traits that a factory may declare."""

    elementwise: bool
    packable: bool
    shardable: bool
    takes_local_grads: bool
    local_params: bool
    examples: bool
    rereads_updates: bool
    upcast: bool


def find_lacking(tx: object, has: Callable[[Value], bool]) -> Any:
    """Return the first part of a transform for which `has` is false; `None` if there is none.

    A named optimizer has what the chain that it stands for has.
    """
    if not isinstance(tx, Value):
        return tx
    if has(tx):
        return next(
            (missing for part in inner_transforms(tx) if (missing := find_lacking(part, has)) is not None), None
        )
    body = tx.body()
    return find_lacking(body, has) if isinstance(body, Value) and not tx.factory.composes else tx


def inner_transforms(tx: Value) -> Iterator[Value]:
    """Yield the transforms among the arguments of one."""
    for name in _transforms(tx):
        yield from (part for part in jax.tree.leaves(tx.arguments[name], is_leaf=_is_value) if _is_value(part))


def _transforms(tx: Value) -> list[str]:
    """Return the parameters that hold transforms."""
    return [name for name, slot in tx.factory.slots.items() if "transform" in slot.takes]


def _parts(tx: Value) -> Iterator[Value]:
    """Yield the transforms among the arguments of one, and its body if that is a transform."""
    yield from inner_transforms(tx)
    if isinstance(body := tx.body(), Value):
        yield body


def walk(tx: object) -> Iterator[Value]:
    """Yield a transform, and all those that it is made of at any depth."""
    if isinstance(tx, Value):
        yield tx
        for part in _parts(tx):
            yield from walk(part)


def has_trait(tx: object, trait: str) -> bool:
    """Return whether a transform, or any part of it, has a trait."""
    if not isinstance(tx, Value):
        return False
    return _once(tx, trait, lambda: getattr(tx.factory.traits, trait) or any(has_trait(p, trait) for p in _parts(tx)))


def local_grad_axes(tx: object) -> tuple[Any, ...]:
    """Return the names of the axes over which a transform takes per-device gradients."""
    if not isinstance(tx, Value):
        return ()

    def found() -> tuple[Any, ...]:
        own = axes.names(tx.arguments["axis_name"]) if tx.factory.traits.takes_local_grads else ()
        return tuple(dict.fromkeys([*own, *(name for part in _parts(tx) for name in local_grad_axes(part))]))

    return _once(tx, "over", found)


def transforms_taking(tx: optax.GradientTransformation | Value, name: str) -> list[Any]:
    """Return the transforms within one whose update functions name an extra argument.

    A plain Optax transformation that takes any extra argument is included: its use of them is unknown.
    """
    if not isinstance(tx, Value):
        return [tx] if _names_extra(tx.update, name) is not False else []

    def found() -> list[Any]:
        parts = [taker for part in _parts(tx) for taker in transforms_taking(part, name)]
        if isinstance(body := tx.body(), Value):
            return parts
        named = _names_extra(body[1], name)
        if named or (named is None and not _transforms(tx) and not _is_of_optax(tx, body[1])):
            return [tx, *parts]
        return parts

    return _once(tx, f"takers_{name}", found)


def _names_extra(update: Callable[..., Any], name: str) -> bool | None:
    """Return whether an update function names an extra argument; `None` if it takes any."""
    parameters = inspect.signature(update).parameters
    if name in parameters:
        return True
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else False


def _is_of_optax(tx: Value, update: Any) -> bool:
    """Return whether Optax alone wrote a transform. A plain transformation may have others within."""
    opaque = tx.factory.__name__ == "opaque_transform"
    return not opaque and str(getattr(update, "__module__", "")).partition(".")[0] == "optax"


def require_weight_effect(who: str, tx: optax.GradientTransformation | Value, extra_args: Mapping[str, Any]) -> None:
    """Refuse a weight that no part of a transform takes."""
    if extra_args.get("weight") is not None and not transforms_taking(tx, "weight"):
        raise TypeError(
            f"{who}: weight has no effect: no part of it takes one, as mean_over, quantized_mean, low_rank_mean, "
            "shard_update and accumulate do. Leave it out; or make the chain with gd.chain, which hands it to those "
            "that take it."
        )


def accumulates_weights(tx: optax.GradientTransformation | Value) -> bool:
    """Return whether a gdjax transform within one weighs steps against each other, and not only members."""
    found = [part for part in transforms_taking(tx, "weight") if isinstance(part, Value)]
    return any(not part.factory.traits.takes_local_grads and _names_extra(part.body()[1], "weight") for part in found)


def route_weight(transforms: Sequence[Any], extra_args: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the extra arguments for each transform of a sequence, in the order in which they are applied.

    A `weight` goes to those that take it. After a transform that reduces over an axis, it is the sum over that axis:
    the gradients are then the same on all members.
    """
    weight = extra_args.get("weight")
    if weight is None:
        return [{**extra_args}] * len(transforms)
    found = []
    for i, tx in enumerate(transforms):
        rest = {name: extra for name, extra in extra_args.items() if name != "weight"}
        found.append(rest | ({"weight": weight} if transforms_taking(tx, "weight") else {}))
        later = any(transforms_taking(other, "weight") for other in transforms[i + 1 :])
        if later and (over := local_grad_axes(tx)) and not has_trait(tx, "local_params"):
            weight = total_weight(tx.factory.__name__, weight, over)
    return found


def with_routed_weight(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return a transform that gets a `weight` only if it takes one, for use beside others."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        return optax.with_extra_args_support(tx).update(updates, state, params, **route_weight([tx], extra_args)[0])

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _once(tx: Value, what: str, make: Callable[[], Any]) -> Any:
    """Return what `make` computes, and keep it: parts within parts would compute it many times."""
    key = f"_told_{what}"
    if key not in tx.__dict__:
        tx.__dict__[key] = make()
    return tx.__dict__[key]


def refuse_local_grads(who: str, inner: object) -> None:
    """Refuse a transform that takes the mean over an axis where what is around it needs that mean itself."""
    if over := local_grad_axes(inner):
        raise ValueError(
            f"{who}: inner must be given the mean of gradients, and it takes that over {over} itself: put mean_over, "
            f"or what else takes it, before {who} in a chain."
        )


def refuse_example_grads(who: str, inner: object, name: str = "inner") -> None:
    """Refuse a transform that takes a gradient of every example where it would get a mean of these."""
    if (part := find_trait(inner, "examples")) is not None:
        raise ValueError(
            f"{who}: {name} must take the mean of gradients, and {part.factory.__name__} clips the gradient of every "
            f"example before it takes the mean. Give it all examples of a step at once, without {who}."
        )


def find_trait(tx: object, trait: str) -> Value | None:
    """Return the first transform within one that has a trait itself."""
    if not isinstance(tx, Value) or getattr(tx.factory.traits, trait):
        return tx if isinstance(tx, Value) else None
    return next((found for part in _parts(tx) if (found := find_trait(part, trait)) is not None), None)


def over(tx: Any, axis_name: axes.AxisName) -> Any:
    """Return the transform with `axis_name` set wherever a part has that parameter and it is `None`.

    A named optimizer without that parameter, and with norms, becomes the chain that it stands for.
    """
    traits = tx.factory.traits
    if (
        "axis_name" not in tx.arguments
        and not (traits.shardable or tx.factory.composes)
        and _is_value(body := tx.body())
    ):
        chained = over(body, axis_name)
        return chained if jax.tree.structure(chained) != jax.tree.structure(body) else tx
    given = _with_parts(tx, lambda part: over(part, axis_name))
    if given.get("axis_name", axis_name) is None:
        given["axis_name"] = axis_name
    return tx.factory.kind(tx.factory, given)


def masked_for(tx: V, params: Tree) -> V:
    """Return the transform with each mask that is a function replaced by its result for these parameters."""
    given = _with_parts(tx, lambda part: masked_for(part, params))
    for name, argument in given.items():
        if name.endswith("mask") and tree.is_function(argument):
            given[name] = argument(params)
    return tx.factory.kind(tx.factory, given)


def _with_parts(tx: Value, f: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the arguments of a transform, with `f` applied to the transforms in them."""
    given = dict(tx.arguments)
    for name in _transforms(tx):
        given[name] = jax.tree.map(lambda part: f(part) if _is_value(part) else part, given[name], is_leaf=_is_value)
    return given


def _is_value(node: Any) -> bool:
    return isinstance(node, Value)
