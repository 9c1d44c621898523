"""Conversion of arguments to the form in which a value keeps them: leaves of a pytree, or static arguments."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.tree import Tree
from gdjax.value.base import Value
from gdjax.value.fingerprint import fingerprint
from gdjax.value.gradient_transform import GradientTransform
from gdjax.value.printing import DTYPES, brief, nearest, uncalled
from gdjax.value.schedules import Schedule
from gdjax.value.slots import STATIC_KINDS, Slot


class Name(str):
    """A string among the leaves of a pytree, itself without leaves."""


jax.tree_util.register_pytree_node(Name, lambda name: ((), str(name)), lambda name, _: Name(name))


def leaves(argument: object, slot: Slot, opaque: Callable[[Any, Slot], Value]) -> Tree:
    """Return an argument as a pytree of numbers, arrays and values; `opaque` wraps functions and transformations.

    Dicts become ordered ones, which JAX flattens in their own order.
    """
    if slot.kind:
        return slot.kind.taken(slot.name, argument)
    match argument:
        case None if "none" in slot.takes:
            return None
        case np.ndarray() | jax.Array() if "number" in slot.takes:
            return slot.array(argument)
        case bool() | int() | float() | complex() | np.generic() if "number" in slot.takes:
            return slot.number(argument)
        case str() if "str" in slot.takes:
            return Name(argument)
        case GradientTransform() if "transform" in slot.takes:
            return argument
        case Value() if "schedule" in slot.takes and type(argument) is Schedule:
            require_levels(argument, slot)
            return argument
        case Value():
            raise refusal(argument, slot)
        case Mapping() if "container" in slot.takes:
            return OrderedDict((key, leaves(x, slot, opaque)) for key, x in argument.items())
        case list() | tuple() if "container" in slot.takes and type(argument) in (list, tuple):
            return type(argument)(leaves(x, slot, opaque) for x in argument)
    return opaque(argument, slot)


def require_levels(schedule: Schedule, slot: Slot) -> None:
    """Refuse a schedule that goes below zero where its parameter may not, as far as its Python numbers show."""
    for name, level in _levels(schedule):
        if isinstance(level, float) and level < 0 and slot.interval is not None and not slot.interval.holds(level):
            raise ValueError(
                f"{slot.name} must lie in {slot.interval.text}, got a schedule with {name}={level!r}{slot.way(level)}"
            )


def _levels(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values that schedules reach, by parameter: those of parameters that may be any number."""
    if type(node) is Schedule:
        for name, own in node.factory.slots.items():
            argument = node.arguments[name]
            bound = name == "end_value" and "decay_rate" in node.arguments  # of what tends to zero
            if own.interval is not None and own.interval.text == "(-inf, inf)" and not bound:
                yield from ((name, x) for x in jax.tree.leaves(argument) if type(argument) is not Schedule)
            yield from _levels(argument)
    elif isinstance(node, (list, tuple)):
        for part in node:
            yield from _levels(part)


def static(argument: object, slot: Slot) -> object:
    """Return a static argument, which shapes the program: comparable and hashable by value, dtypes in one form."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(argument)):
        raise TypeError(f"{slot.name} shapes the program and cannot be traced, got {brief(argument)}")
    argument = _own(argument)
    if slot.name == "axis_name" and isinstance(argument, list):
        argument = tuple(argument)
    if slot.flag and not isinstance(argument, bool):
        raise TypeError(f"{slot.name} must be True or False, got {brief(argument)}")
    try:
        fingerprint(argument)
    except TypeError as error:
        raise TypeError(f"{slot.name} cannot be kept: {error}") from None
    if slot.must and not (slot.optional and argument is None) and not STATIC_KINDS[slot.must](argument):
        raise TypeError(f"{slot.name} must be {slot.must}, got {brief(argument)}{_way_to_kind(argument, slot.must)}")
    if slot.interval is not None and type(argument) is int and not slot.interval.holds(argument):
        raise ValueError(f"{slot.name} must lie in {slot.interval.text}, got {argument}")
    if slot.accumulator and argument is not None:
        _require_inexact(argument, slot)
    return argument


def _require_inexact(dtype: Any, slot: Slot) -> None:
    """Refuse the dtype of an accumulator that is an integer's."""
    if not jnp.issubdtype(dtype := jnp.dtype(dtype), jnp.inexact):
        raise ValueError(f"{slot.name} must be a floating or complex dtype, got {dtype.name}")


def require_dtype(who: str, name: str, argument: object) -> None:
    """Refuse what is no dtype, unless it is `None`."""
    if not (argument is None or STATIC_KINDS["a dtype"](argument)):
        way = _way_to_kind(argument, "a dtype")
        raise TypeError(f"{who}: {name} must be a dtype, got {brief(argument)}{way}.")


def _way_to_kind(argument: Any, must: str) -> str:
    """Suggest what to write instead of what shapes the program and is of another kind, if that is clear."""
    if must == "a dtype" and isinstance(argument, str):
        known = {
            "bf": "bfloat16",
            "bf16": "bfloat16",
            "fp16": "float16",
            "half": "float16",
            "fp32": "float32",
            "single": "float32",
        }
        return f", did you mean {known[argument]!r}" if argument in known else nearest(argument, DTYPES)
    return uncalled(argument)


def refusal(argument: object, slot: Slot) -> TypeError:
    """Return the error for an argument of the wrong kind."""
    kinds = {"number": "a number", "schedule": "a schedule", "transform": "a transform"}
    wanted = " or ".join(kinds[kind] for kind in kinds if kind in slot.takes)
    return TypeError(f"{slot.name} must be {wanted}, got {brief(argument)}{_way(argument, slot)}")


def _way(argument: Any, slot: Slot) -> str:
    """Suggest what to write instead of an argument of another kind, if that is clear."""
    if called := uncalled(argument):
        return called
    if isinstance(argument, str) and "(" in argument:
        return "; gd.parse reads a text"
    is_number = isinstance(argument, (int, float)) and not isinstance(argument, bool)
    if is_number and slot.takes & _LEAVES == {"schedule"}:
        return f"; gd.constant({argument}) is one"
    if isinstance(argument, str):
        return "; write it without quotes" if _is_number(argument) else ""
    if "transform" in slot.takes:
        return _way_to_transform(argument, slot)
    if _is_tree_of_arrays(argument):
        return "; an optimizer is made without the parameters, and init(params) gets them"
    if isinstance(argument, (tuple, list)) and slot.name in ("b1", "betas"):
        return f"; give b1={brief(argument[0])}, b2={brief(argument[1])}" if len(argument) == 2 else ""
    return ""


_LEAVES = {"number", "schedule", "transform"}


def _way_to_transform(argument: Any, slot: Slot) -> str:
    if argument is None:
        return "; leave it out, or give gd.identity()"
    is_number = isinstance(argument, (int, float)) and not isinstance(argument, bool)
    if type(argument) is Schedule or (is_number and slot.several):
        return f"; gd.scale_by_learning_rate({brief(argument)}) is one"
    if isinstance(argument, (list, tuple)):
        if len(argument) == 2 and all(callable(x) and not isinstance(x, Value) for x in argument):
            return "; optax.GradientTransformation(init, update) makes one of two functions"
        kind = type(argument).__name__
        return (
            f"; give its elements one by one, without the {kind}" if slot.several else "; gd.chain makes one of several"
        )
    if isinstance(argument, Mapping):
        return "; gd.by_path takes transforms by pattern, and gd.named_chain pairs (name, transform)"
    return ""


def _is_number(written: str) -> bool:
    try:
        float(written)
    except ValueError:
        return False
    return True


def _is_tree_of_arrays(argument: Any) -> bool:
    leaves = jax.tree.leaves(argument)
    return bool(leaves) and leaves[0] is not argument and all(hasattr(leaf, "shape") for leaf in leaves)


def _own(argument: Any) -> Any:
    """Return a copy that nobody else can change. Iterators become tuples, NumPy scalars Python numbers."""
    if isinstance(argument, np.generic):
        return argument.item()
    if _is_dtype(argument):
        return np.dtype(argument)
    if isinstance(argument, np.ndarray):
        return _read_only(argument)
    if type(argument) in (dict, OrderedDict):
        return type(argument)((key, _own(x)) for key, x in argument.items())
    if type(argument) in (list, tuple):
        return type(argument)(map(_own, argument))
    if isinstance(argument, Iterator):
        return tuple(map(_own, argument))
    if any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(argument)):  # in a node of another type
        return jax.tree.map(lambda x: _read_only(x) if isinstance(x, np.ndarray) else x, argument)
    return argument


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return a copy that cannot be written to; an array that owns its numbers and is such already, as it is."""
    if array.flags.writeable or array.base is not None:
        array = array.copy()
        array.flags.writeable = False
    return array


def _is_dtype(argument: Any) -> bool:
    """Return whether this is a type of numbers in NumPy or JAX."""
    return isinstance(argument, type(jnp.float32)) or (isinstance(argument, type) and issubclass(argument, np.generic))
