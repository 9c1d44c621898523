"""Arguments as a value keeps them: leaves that are numbers and arrays alone, and what is static."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.value.base import Value
from gdjax.value.fingerprint import fingerprint
from gdjax.value.gradient_transform import GradientTransform
from gdjax.value.printing import text, uncalled
from gdjax.value.schedule import Schedule
from gdjax.value.slots import Slot


class Name(str):
    """A string among the leaves of a pytree, itself without leaves."""


jax.tree_util.register_pytree_node(Name, lambda name: ((), str(name)), lambda name, _: Name(name))


def leaves(argument: Any, slot: Slot, opaque: Callable[[Any, Slot], Value]) -> Any:
    """An argument as a pytree of numbers, arrays and values; `opaque` makes values of functions and transformations.

    Dicts become ordered ones, which JAX flattens in their own order.
    """
    if slot.kind:
        return slot.kind.taken(slot.name, argument)
    match argument:
        case None if "none" in slot.takes:
            return None
        case np.ndarray() | jax.Array() if "number" in slot.takes:
            return argument.copy() if isinstance(argument, np.ndarray) else argument
        case bool() | int() | float() | complex() | np.generic() if "number" in slot.takes:
            return slot.number(argument)
        case str() if "str" in slot.takes:
            return Name(argument)
        case GradientTransform() if "transform" in slot.takes:
            return argument
        case Schedule() if "schedule" in slot.takes:
            return argument
        case Value():
            raise refusal(argument, slot)
        case Mapping() if "container" in slot.takes:
            return OrderedDict((key, leaves(x, slot, opaque)) for key, x in argument.items())
        case list() | tuple() if "container" in slot.takes and type(argument) in (list, tuple):
            return type(argument)(leaves(x, slot, opaque) for x in argument)
    return opaque(argument, slot)


def static(argument: Any, slot: Slot) -> Any:
    """An argument that shapes the program: comparable and hashable by value, a dtype in one form."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(argument)):
        raise TypeError(f"{slot.name} shapes the program and cannot be traced, got {text(argument)}")
    argument = _own(argument)
    if slot.flag and not isinstance(argument, bool):
        raise TypeError(f"{slot.name} must be True or False, got {text(argument)}")
    try:
        fingerprint(argument)
    except TypeError as error:
        raise TypeError(f"{slot.name} cannot be kept: {error}") from None
    is_dtype = isinstance(argument, type(jnp.float32)) or (
        isinstance(argument, type) and issubclass(argument, np.generic)
    )
    return np.dtype(argument) if is_dtype else argument  # pyright: ignore[reportCallIssue, reportArgumentType]


def refusal(argument: Any, slot: Slot) -> TypeError:
    """The error for an argument of another kind."""
    kinds = {"number": "a number", "schedule": "a schedule", "transform": "a transform"}
    wanted = " or ".join(kinds[kind] for kind in kinds if kind in slot.takes)
    return TypeError(f"{slot.name} must be {wanted}, got {text(argument)}{uncalled(argument)}")


def _own(argument: Any) -> Any:
    """A copy that nobody else can change: containers anew, iterators read out, NumPy's scalars as Python's."""
    if isinstance(argument, np.generic):
        return argument.item()
    if type(argument) is dict:
        return {key: _own(x) for key, x in argument.items()}
    if type(argument) in (list, tuple):
        return type(argument)(map(_own, argument))
    return tuple(map(_own, argument)) if isinstance(argument, Iterator) else argument
