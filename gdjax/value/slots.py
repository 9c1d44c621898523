"""Read from its annotation what each parameter of a factory may hold."""

import collections.abc
import dataclasses
import functools
import inspect
import math
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from gdjax.concrete import concrete_value
from gdjax.value.base import Value
from gdjax.value.printing import brief
from gdjax.value.schedules import Schedule

Scalar = float | jax.Array
ScalarOrSchedule = float | jax.Array | optax.Schedule


@dataclasses.dataclass(frozen=True)
class Interval:
    """The range of a hyperparameter, written as in mathematics.

    >>> decay = Interval("[0, 1)")
    >>> decay.holds(0.0), decay.holds(1.0)
    (True, False)
    """

    text: str

    @functools.cached_property
    def ends(self) -> tuple[float, float]:
        """The two ends."""
        low, high = self.text[1:-1].split(",")
        return float(low), float(high)

    @functools.cached_property
    def limits(self) -> tuple[float, float]:
        """The least and the largest float in the interval."""
        low, high = self.ends
        least = low if self.text[0] == "[" else math.nextafter(low, math.inf)
        return least, high if self.text[-1] == "]" else math.nextafter(high, -math.inf)

    def holds(self, number: Any) -> bool:
        """Return whether a number lies in the interval."""
        low, high = self.ends
        above = number >= low if self.text[0] == "[" else number > low
        below = number <= high if self.text[-1] == "]" else number < high
        return above and below

    def holds_all(self, numbers: np.ndarray) -> bool:
        """Return whether all numbers lie in the interval, ends included: 0.999 rounds to 1 in bfloat16."""
        low, high = self.ends
        return bool(np.all((numbers >= low) & (numbers <= high)))


Decay = Annotated[Scalar, Interval("[0, 1)")]
Positive = Annotated[Scalar, Interval("(0, inf]")]
NonNegative = Annotated[Scalar, Interval("[0, inf)")]
Rate = Annotated[ScalarOrSchedule, Interval("(-inf, inf)")]
LearningRate = Annotated[ScalarOrSchedule, Interval("[0, inf)")]
Momentum = Annotated[Scalar, Interval("[0, 1]")]
WeightDecay = Annotated[ScalarOrSchedule, Interval("[0, inf)")]

_ACCUMULATOR = "the dtype of an accumulator"
AccumulatorDType = Annotated[Any, _ACCUMULATOR]
"""The dtype of a running sum or mean: a floating or complex one, or `None`."""


def _is_dtype(x: Any) -> bool:
    try:
        jnp.dtype(x)
    except (TypeError, ValueError):
        return False
    return True


STATIC_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "a dtype": _is_dtype,
    "a function": callable,
    "a string": lambda x: isinstance(x, str),
    "an integer": lambda x: isinstance(x, int) and not isinstance(x, bool),
    "the name of an axis, or a tuple of names": lambda x: isinstance(x, Hashable),
}
"""Tests of what shapes the program, by what it must be."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """One parameter of a factory."""

    name: str
    leaf: bool
    """True if its argument is part of the pytree; a static argument shapes the program."""
    takes: frozenset[str] = frozenset()
    """For a leaf: the kinds it takes, of `container`, `int`, `none`, `number`, `schedule`, `str` and `transform`."""
    flag: bool = False
    """For a static argument: true if it must be a boolean."""
    must: str = ""
    """For a static argument: the kind that it must have, one of `STATIC_KINDS`, or empty."""
    optional: bool = False
    """For a static argument: true if it may be `None`."""
    accumulator: bool = False
    """For a static argument: true if it is the dtype of an accumulator, which cannot be an integer."""
    interval: Interval | None = None
    several: bool = False
    """True if it takes any number of arguments."""
    kind: Any = None
    """For a leaf that is another kind of value: that kind, whose `taken` converts an argument."""

    @functools.cached_property
    def scalar(self) -> bool:
        """Return whether it is a leaf that holds one number or schedule, and no container of them."""
        return "number" in self.takes and "container" not in self.takes

    @functools.cached_property
    def float_limits(self) -> tuple[float, float] | None:
        """The least and the largest float that are kept as they are; `None` if floats are not."""
        if self.kind or "number" not in self.takes:
            return None
        return (-math.inf, math.inf) if self.interval is None else self.interval.limits

    def number(self, value: Any) -> Any:
        """Return a number as a value keeps it: a Python number, and a float unless the parameter takes integers."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool) and "int" not in self.takes:
            raise ValueError(f"{self.name} must be a number, got {value}")
        if isinstance(value, complex) and "int" not in self.takes:
            raise ValueError(f"{self.name} must be real, got {value!r}")
        if type(value) is int and "int" not in self.takes:
            if abs(value) > 2**1000:
                raise ValueError(f"{self.name} is too large for a float")
            value = float(value)
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{self.name} must be a number, got nan")
        if self.interval is not None and not self.interval.holds(value):
            raise ValueError(f"{self.name} must lie in {self.interval.text}, got {value!r}{self.way(value)}")
        return value

    def array(self, value: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        """Return an array as a value keeps it, after checking the range of its numbers if they are known."""
        numbers, interval = concrete_value(value), self.interval
        if numbers is not None and interval is not None and not interval.holds_all(numbers):
            got = brief(numbers.tolist() if numbers.size <= 8 else numbers) + self.way(float(numbers.min()))
            raise ValueError(f"{self.name} must lie in {interval.text}, got {got}")
        return value.copy() if isinstance(value, np.ndarray) else value

    def way(self, value: Any) -> str:
        """Suggest what to write instead of a number out of range, if that is clear."""
        if "learning_rate" in self.name and value < 0:
            return "; give a positive one, and wrap the optimizer, gd.maximize(tx), to climb"
        return ""


RANGES = {
    "learning_rate": Interval("[0, inf)"),
    "max_learning_rate": Interval("[0, inf]"),
    "weight_decay": Interval("[0, inf)"),
    "momentum": Interval("[0, 1]"),
    "b1": Interval("[0, 1]"),
    "b2": Interval("[0, 1]"),
    "eps": Interval("[0, inf)"),
    "eps_root": Interval("[0, inf)"),
    "l2_norm_clip": Interval("(0, inf]"),
    "noise_multiplier": Interval("[0, inf)"),
}
"""Ranges of names that mean the same throughout Optax, for factories whose annotations have none."""

_AT_LEAST_0, _AT_LEAST_1, _FRACTION = Interval("[0, inf)"), Interval("[1, inf)"), Interval("[0, 1]")
_NOISE = {"eta": _AT_LEAST_0, "gamma": _AT_LEAST_0}
_MEMORY = {"memory_size": _AT_LEAST_1}
_GALORE = {"update_proj_gap": _AT_LEAST_1, "scale": _AT_LEAST_0}
_SEARCH = {
    "increase_factor": Interval("(0, inf]"),
    "slope_rtol": _FRACTION,
    "curv_rtol": _FRACTION,
    "decrease_factor": Interval("(0, 1)"),
    "atol": _AT_LEAST_0,
    "rtol": _AT_LEAST_0,
    "tol": _AT_LEAST_0,
    "max_backtracking_steps": _AT_LEAST_1,
    "max_linesearch_steps": _AT_LEAST_1,
}
RANGES_OF = {
    "add_noise": _NOISE,
    "apply_every": {"k": _AT_LEAST_1},
    "cocob": {"alpha": _AT_LEAST_0},
    "galore": _GALORE,
    "lbfgs": _MEMORY,
    "measure_with_ema": {"decay": _FRACTION},
    "mechanize": {"s_init": Interval("(0, inf)"), "num_betas": _AT_LEAST_1},
    "momo": {"beta": _FRACTION},
    "noisy_sgd": _NOISE,
    "polyak_sgd": {"scaling": _AT_LEAST_0},
    "scale_by_backtracking_linesearch": _SEARCH,
    "scale_by_cocob": {"alpha": _AT_LEAST_0},
    "scale_by_galore": _GALORE,
    "scale_by_lbfgs": _MEMORY,
    "scale_by_zoom_linesearch": _SEARCH,
    "sophia": {
        "gamma": _AT_LEAST_0,
        "clip_threshold": Interval("(0, inf]"),
        "update_interval": _AT_LEAST_1,
        "print_win_rate_every_n_steps": _AT_LEAST_0,
    },
}
"""Further ranges of one of Optax's factories each."""


def slots(
    signature: inspect.Signature,
    static: frozenset[str],
    ranges: Mapping[str, Interval] = MappingProxyType({}),
    accumulators: frozenset[str] = frozenset(),
) -> OrderedDict[str, Slot]:
    """Read the slots of a signature.

    Args:
      signature: the signature of a factory.
      static: parameters that are no leaves, whatever their annotation.
      ranges: intervals by name, for parameters whose annotation has none.
      accumulators: names of parameters that are dtypes of accumulators, whatever their annotation.
    """
    found = OrderedDict((p.name, _slot(p, p.name in static, ranges)) for p in signature.parameters.values())
    several = [p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_POSITIONAL]
    found |= {name: dataclasses.replace(found[name], several=True) for name in several}
    named = accumulators & found.keys()
    return found | {name: dataclasses.replace(found[name], must="a dtype", accumulator=True) for name in named}


def _slot(parameter: inspect.Parameter, static: bool, ranges: Mapping[str, Interval]) -> Slot:
    if (kind := _own_kind(parameter.annotation)) and not static:
        return Slot(parameter.name, leaf=True, kind=kind)
    takes = frozenset(_kinds(parameter.annotation))
    notes = tuple(_notes(parameter.annotation))
    interval = next((note for note in notes if isinstance(note, Interval)), ranges.get(parameter.name))
    if static or not takes & _LEAVES or "other" in takes:
        flag, must = parameter.annotation is bool, _must(parameter)
        optional = parameter.default is None or types.NoneType in _members(parameter.annotation)
        return Slot(
            parameter.name,
            leaf=False,
            flag=flag,
            must=must,
            optional=optional,
            accumulator=_ACCUMULATOR in notes,
            interval=interval if must == "an integer" else None,
        )
    takes |= {"none"} if parameter.default is None else set()
    return Slot(parameter.name, leaf=True, takes=takes, interval=interval)


def _must(parameter: inspect.Parameter) -> str:
    """Return the kind of what is no leaf, if its annotation says one, or its name where that says nothing."""
    if parameter.name == "axis_name":
        return "the name of an axis, or a tuple of names"
    members = [member for member in _members(parameter.annotation) if member is not types.NoneType]
    of_any = parameter.name.endswith("dtype") and members in ([Any], [inspect.Parameter.empty])
    if of_any or _ACCUMULATOR in _notes(parameter.annotation) or set(get_args(DTypeLike)) <= {*members}:
        return "a dtype"
    kinds = {_kind(member) for member in members}
    return kinds.pop() if len(kinds) == 1 else ""


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation alone, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in _UNIONS:
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _kind(annotation: Any) -> str:
    if annotation is int:
        return "an integer"
    if annotation is str:
        return "a string"
    protocol = isinstance(annotation, type) and getattr(annotation, "_is_protocol", False)
    is_function = get_origin(annotation) is collections.abc.Callable or (protocol and "__call__" in vars(annotation))
    return "a function" if is_function else ""


_UNIONS = (Union, types.UnionType)
_LEAVES = {"number", "schedule", "transform"}
_NUMBERS = (float, complex, np.generic, np.ndarray, jax.Array)
_CONTAINERS = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, OrderedDict, collections.abc.Mapping)


def _own_kind(annotation: Any) -> type | None:
    """Return the kind of values that an annotation names, if it is neither a schedule nor a transform."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Value):
            return None if issubclass(part, (Schedule, optax.GradientTransformation)) else part
    return None


def _kinds(annotation: Any) -> Iterator[str]:
    """Yield what an annotation admits: a kind of leaf, `int` or `str` (leaves only beside one), or `other`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation == optax.Schedule or annotation is Schedule:
        yield "schedule"
    elif origin is Annotated:
        yield from _kinds(arguments[0])
    elif origin in _UNIONS:
        for argument in arguments:
            yield from _kinds(argument)
    elif origin in (*_CONTAINERS, *_MAPPINGS):
        yield "container"
        for argument in arguments[int(origin in _MAPPINGS) :]:
            yield from _kinds(argument)
    elif annotation in (None, types.NoneType):
        yield "none"
    elif annotation is Ellipsis:
        return
    elif origin is Literal:
        for argument in arguments:
            yield from _kinds(type(argument))
    elif annotation is str:
        yield "str"
    elif not isinstance(annotation, type):
        yield "other"
    elif issubclass(annotation, (bool, int, np.bool)):
        yield "int"
    elif issubclass(annotation, _NUMBERS):
        yield "number"
    elif issubclass(annotation, optax.GradientTransformation):
        yield "transform"
    else:
        yield "other"


def _notes(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())
    for argument in get_args(annotation):
        yield from _notes(argument)
