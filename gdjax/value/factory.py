"""Decorators that turn a function of hyperparameters into a factory of values."""

import contextlib
import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, Unpack, overload

import jax
import numpy as np
import optax

from gdjax import tree
from gdjax.calls import Callee
from gdjax.explaining import signature_text
from gdjax.in_range import IN_RANGE
from gdjax.specs import with_auto_axes
from gdjax.value.arguments import leaves, refusal, static
from gdjax.value.base import V, Value
from gdjax.value.diagnose import is_raised_by_user
from gdjax.value.gradient_transform import GradientTransform
from gdjax.value.printing import brief
from gdjax.value.schedules import Schedule
from gdjax.value.signatures import signature
from gdjax.value.slots import RANGES, RANGES_OF, Interval, Slot, slots
from gdjax.value.synonyms import unknown
from gdjax.value.traits import NONE, Declared, Traits
from gdjax.value.widening import real_only, settled, widened

P = ParamSpec("P")


class Factory(Callee, Generic[P, V]):
    """A function of hyperparameters that returns values.

    The signature is the whole declaration: a parameter annotated as a number, a schedule, a transform, or a
    container of these is part of the pytree; every other one is static, as are those named in `static`.
    """

    __name__: str
    __qualname__: str  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        function: Callable[P, Any],
        kind: type[V],
        static: Iterable[str] = (),
        any_dtype: bool | None = None,
        traits: Traits = NONE,
    ):
        functools.update_wrapper(self, function)
        self.function, self.kind = function, kind
        self.static, self.any_dtype, self.traits = frozenset(static), any_dtype, traits

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The signature of the function, its annotations evaluated."""
        return signature(self.function)

    @functools.cached_property
    def slots(self) -> Mapping[str, Slot]:
        """The parameters by name, in order."""
        found = slots(self.signature, self.static, self._ranges(), self._accumulators())
        if unknown := self.static - found.keys():
            raise ValueError(f"{self.__name__}: no parameter {sorted(unknown)} to be static among {list(found)}.")
        if taken := sorted(name for name in found if hasattr(self.kind, name)):
            raise ValueError(f"{self.__name__}: no parameter may be named {taken}, which every value has already.")
        if any(p.kind is p.VAR_KEYWORD for p in self.signature.parameters.values()):
            raise ValueError(f"{self.__name__}: name every parameter; a **{list(found)[-1]} cannot be declared.")
        return found

    @functools.cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The defaults by name, as values keep them."""
        given = {name: p.default for name, p in self.signature.parameters.items() if p.default is not p.empty}
        return {name: self._kept(self.slots[name], default) for name, default in given.items()}

    @functools.cached_property
    def composes(self) -> bool:
        """Return whether the factory makes its transforms of others."""
        return any("transform" in slot.takes for slot in self.slots.values())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> V:
        """Make a value, or say which argument it refuses and why."""
        names = self._positional
        if self._several:  # all arguments by position are of one parameter
            fits, arguments = not kwargs, {names[0]: args}
        else:
            fits = len(args) <= len(names) and kwargs.keys().isdisjoint(names[: len(args)])
            arguments = dict(zip(names, args, strict=False), **kwargs) if fits else {}
        if fits and self._required <= arguments.keys() <= self.slots.keys():
            return self.make(arguments)
        return self.make(self.bound(args, kwargs))

    @functools.cached_property
    def _several(self) -> bool:
        """Return whether the first parameter takes any number of arguments."""
        kinds = [p.kind for p in self.signature.parameters.values()]
        return kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]

    @functools.cached_property
    def _positional(self) -> tuple[str, ...]:
        """The parameters that may be given by position."""
        return tuple(p.name for p in self.signature.parameters.values() if p.kind is not p.KEYWORD_ONLY)

    @functools.cached_property
    def _required(self) -> frozenset[str]:
        """The parameters without a default."""
        parameters = self.signature.parameters.values()
        return frozenset(p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL)

    def bound(self, args: tuple[object, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a call by name, or say how it does not fit the signature."""
        parameters = self.signature.parameters
        if strange := {name: argument for name, argument in kwargs.items() if name not in parameters}:
            raise TypeError(f"{self.__name__}: {unknown(strange, parameters)}; its signature is {self._usage()}.")
        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.__name__}: {error}; its signature is {self._usage()}.") from None

    def make(self, arguments: Mapping[str, Any]) -> V:
        """Make a value of arguments by name, those missing at their defaults."""
        kept, defaults = {}, self.defaults
        for name, slot in self.slots.items():
            default = defaults.get(name, ())
            argument = arguments.get(name, default)
            limits = slot.float_limits
            if argument is default or (type(argument) is float and limits and limits[0] <= argument <= limits[1]):
                kept[name] = argument  # most arguments: nothing to check or convert
            elif slot.several:
                kept[name] = self._kept_several(slot, argument)
            else:
                kept[name] = self._kept(slot, argument)
        value = self.kind(self, kept)
        value.check()
        return value

    def require(self, name: str, argument: object) -> None:
        """Refuse an argument out of the range of its parameter."""
        self._kept(self.slots[name], argument)

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Run the body. It receives an array of one number as a scalar."""
        args, kwargs = [], {}
        for name, parameter in self.signature.parameters.items():
            x = arguments[name]
            if isinstance(x, (jax.Array, np.ndarray)) and x.ndim and x.size == 1 and self.slots[name].scalar:
                x = x.reshape(())
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(x)
            elif parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[name] = x
            else:
                args.append(x)
        return self._body_function(*args, **kwargs)

    @functools.cached_property
    def takes_any(self) -> bool:
        """Return whether its transforms take leaves that have no gradient."""
        return self.composes if self.any_dtype is None else self.any_dtype

    @functools.cached_property
    def _body_function(self) -> Callable[..., Any]:
        """The function that makes the transform."""
        return self.function

    def _kept(self, slot: Slot, argument: Any) -> Any:
        try:
            return leaves(argument, slot, _opaque) if slot.leaf else static(argument, slot)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.__name__}: {error}.") from None

    def _kept_several(self, slot: Slot, arguments: Any) -> tuple[Any, ...]:
        if "transform" in slot.takes and {*map(type, arguments)} == {GradientTransform}:
            return tuple(arguments)
        return tuple(self._kept(slot, argument) for argument in arguments)

    @property
    def __signature__(self) -> inspect.Signature:
        return self.signature

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        who = self.__dict__.get("__name__", "it")
        raise AttributeError(f"{who} is a factory, which has no {name!r}; call it first: {who}(...).{name}.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factory) and (self.function, self.static) == (other.function, other.static)

    def __hash__(self) -> int:
        return hash((self.function, self.static))

    def _ranges(self) -> Mapping[str, Interval]:
        """Return ranges of parameters whose annotations have none: by default there are no such ranges."""
        return {}

    def _accumulators(self) -> frozenset[str]:
        """Return the names of dtypes of accumulators whose annotations do not say so: by default there are none."""
        return frozenset()

    def _usage(self) -> str:
        return f"{self.__name__}{signature_text(self.signature)}"

    def __repr__(self) -> str:
        return f"<factory {self._usage()}>"

    def __reduce__(self) -> Any:
        """Pickle by name where this is what the name means, else as the function that it was made of."""
        with contextlib.suppress(AttributeError, KeyError):
            if operator.attrgetter(self.__qualname__)(sys.modules[self.__module__]) is self:
                return self.__qualname__
        return type(self), (self.function, self.kind, self.static, self.any_dtype, self.traits)


@overload
def transform(function: Callable[P, Any] | None, /) -> Factory[P, GradientTransform]: ...
@overload
def transform(
    *, any_dtype: bool | None = None, **declares: Unpack[Declared]
) -> Callable[[Callable[P, Any]], Factory[P, GradientTransform]]: ...
def transform(
    function: Callable[P, Any] | None = None, /, *, any_dtype: bool | None = None, **declares: Unpack[Declared]
) -> Factory[..., GradientTransform] | Callable[..., Factory[..., GradientTransform]]:
    """Turn a function that returns `(init, update)`, or another transform, into a factory of values.

    A parameter annotated as a number (`float`, `gd.Scalar`, `gd.ScalarOrSchedule`), as a transform, or as a container
    of these is a leaf of the pytree. Every other parameter is static. A range in the annotation is checked when a
    value is made. The functions may leave out `**extra_args`: they receive the extra arguments that they name.

    Extra arguments follow Optax: an argument that no part of an optimizer names is ignored. So `value`, `grad` and
    `value_fn`, which `make_step` always passes, may be given to any optimizer. `weight`, the weight of a gradient in a
    mean, is the exception: it is an error if no part takes it. An update function takes it by naming `weight` in its
    signature. A `weight` of None counts as not given.

    A factory may return up to two more functions. `again(updates, state, params)` recomputes the updates from the state
    after them, or is `None`; a caller that reads the updates twice calls it where XLA would write them to memory.
    `descend(updates, state, params)` returns new parameters instead of updates; `gd.descend` calls it.

    Args:
      function: a function of hyperparameters.
      any_dtype: whether it also takes parameters without a gradient, such as integers. By default a transform made of
        other transforms takes them, and leaves them to its parts.
      **declares: the traits of its transforms, each true or false:
      elementwise: each number is transformed alone, and zero stays zero. Implies `packable` and `shardable`.
      packable: leaves may lie side by side in one array (`packed`): it works on single numbers, or on norms of the
        whole tree.
      shardable: it may see a shard of every leaf, padded with zeros (`shard_update`). What it sums over a leaf, it also
        sums over its parameter `axis_name`.
      takes_local_grads: it takes per-device gradients over the axis `axis_name` (`mean_over`).
      local_params: the parameters are per-device as well (`local_steps`).
      examples: it takes a gradient for every example, along a new first axis (`dpsgd`).
      rereads_updates: it reads the updates twice, to scale them by their norm, say. Its update function names
        `recompute`. A chain passes a function of that name, or `None`. `recompute(numbers)` computes the updates again
        once a tree of scalars is known, and XLA then writes no updates to memory.
      upcast: its functions see updates and state in at least float32. The updates and the state that they return are
        rounded to the dtypes of those given. Parameters keep their dtypes.

    >>> import jax, gdjax as gd
    >>> @gd.transform
    ... def scale_by_half(power: gd.Scalar = 1.0):
    ...     def init(params):
    ...         return ()
    ...     def update(updates, state, params=None):
    ...         return jax.tree.map(lambda u: 0.5**power * u, updates), state
    ...     return init, update
    >>> tx = scale_by_half()
    >>> tx
    scale_by_half(power=1.0)
    >>> tx.update(8.0, tx.init(0.0))
    (4.0, ())
    """
    if function is None:
        if strange := sorted(declares.keys() - Declared.__annotations__.keys()):
            known = ", ".join(Declared.__annotations__)
            raise TypeError(f"transform: nothing is declared by {strange[0]!r}; it takes any_dtype, {known}.")
        traits = Traits.of(**declares)
        return functools.partial(declared, kind=GradientTransform, any_dtype=any_dtype, traits=traits)
    return declared(function, GradientTransform)


def schedule(function: Callable[P, Callable[[Any], Any]], /) -> Factory[P, Schedule]:
    """Turn a function that returns a function of the step into a factory of schedules.

    >>> import gdjax as gd
    >>> @gd.schedule
    ... def halving(start: gd.Scalar, every: gd.Scalar = 1_000):
    ...     return lambda count: start * 0.5 ** (count / every)
    >>> halving(1.0)
    halving(start=1.0, every=1000.0)
    >>> print(halving(1.0)(2_000))
    0.25
    """
    return declared(function, Schedule)


def declared(
    function: Callable[P, Any], kind: type[V], any_dtype: bool | None = None, traits: Traits = NONE
) -> Factory[P, V]:
    """Return a factory after checking its declaration."""
    if not callable(function):
        who = {GradientTransform: "transform", Schedule: "schedule"}.get(kind, kind.__name__.lower())
        raise TypeError(f"{who}: decorate a function of hyperparameters, got {brief(function)}.")
    factory = Factory(function, kind, any_dtype=any_dtype, traits=traits)
    if traits.takes_local_grads and "axis_name" not in factory.slots:
        raise TypeError(
            f"{factory.__name__}: what takes gradients from an axis has a parameter axis_name that names it."
        )
    if traits.local_params and not traits.takes_local_grads:
        raise TypeError(f"{factory.__name__}: local_params has no effect without takes_local_grads=True: declare both.")
    for name, slot in factory.slots.items():
        if not slot.leaf and isinstance(factory.signature.parameters[name].default, float):
            raise TypeError(f"{factory.__name__}: annotate {name}, float for a leaf or Any for what is static.")
    return factory


@overload
def lift(
    function: Callable[P, optax.GradientTransformation],
    static: Iterable[str] = (),
    *,
    any_dtype: bool | None = None,
    explicit: bool = False,
    passes: bool = False,
    real: bool = False,
    examples: bool = False,
) -> Factory[P, GradientTransform]: ...
@overload
def lift(
    function: Callable[P, optax.Schedule],
    static: Iterable[str] = (),
    *,
    any_dtype: bool | None = None,
    explicit: bool = False,
    passes: bool = False,
    real: bool = False,
    examples: bool = False,
) -> Factory[P, Schedule]: ...
def lift(
    function: Callable[P, Any],
    static: Iterable[str] = (),
    *,
    any_dtype: bool | None = None,
    explicit: bool = False,
    passes: bool = False,
    real: bool = False,
    examples: bool = False,
) -> Factory[P, Any]:
    """Make a factory of values of any Optax factory, of transforms or of schedules.

    Its own annotations say which parameters are leaves. One on whose number the function branches while it builds
    the program (the error names it) can be made static. Over a mesh with Explicit axes a transform runs with automatic
    ones, since what contracts, factors or concatenates would not do otherwise; what it returns has types again.

    A lifted transform computes in float32 at least. 16-bit leaves go in widened, and updates come out in the dtypes of
    the gradients. The state keeps the dtypes that `init` gave it. `value_fn` and `obj_fn` get parameters of their own
    dtypes.

    Args:
      function: a function that returns an `optax.GradientTransformation` or an `optax.Schedule`.
      static: names of parameters that are no leaves, whatever their annotation.
      any_dtype: as in `transform`.
      explicit: whether a transform keeps Explicit axes as they are: it is made of functions that were written for them.
      passes: whether a transform only passes leaves on, to other transforms or to functions of yours. It then gets them
        as they are: what it passes them to widens for itself.
      real: whether a transform takes no complex leaves.
      examples: whether a transform takes a gradient of every example.

    >>> import gdjax as gd, optax
    >>> gd.lift(optax.fromage)(learning_rate=0.1)
    fromage(learning_rate=0.1, min_norm=1e-06)
    """
    if not callable(function):
        made = isinstance(function, optax.GradientTransformation)
        way = "; give the factory itself, uncalled: lift(optax.adam)" if made else ""
        raise TypeError(f"lift: function must be a factory of Optax, got {brief(function)}{way}.")
    returns = getattr(function, "__annotations__", {}).get("return")
    if isinstance(returns, str):
        returns = inspect.signature(function, eval_str=True).return_annotation
    static = [static] if isinstance(static, str) else static
    if returns == optax.Schedule:
        if explicit or any_dtype is not None:
            raise ValueError(f"lift: explicit and any_dtype have no effect on a schedule, {function.__name__}.")
        return Factory(function, Schedule, static, any_dtype)
    traits = Traits(passes=passes or explicit, real=real, examples=examples)
    return (Factory if explicit else Lifted)(function, GradientTransform, static, any_dtype, traits)


_MASKS = ("mask", "weight_decay_mask")
"""Parameters of Optax's factories that choose leaves."""
_ACCUMULATORS = frozenset({"accumulator_dtype", "mu_dtype"})
"""Parameters of Optax's factories that are dtypes of accumulators."""


class Lifted(Factory[P, GradientTransform]):
    """A factory of Optax transforms. It adds ranges, Explicit axes, 16-bit numbers and donation."""

    def _ranges(self) -> Mapping[str, Interval]:
        """Return the ranges of Optax's names; a `scale_by_` transform takes any learning rate."""
        free = {"learning_rate"} if self.__name__.startswith("scale_by_") else set()
        own = RANGES_OF.get(self.__name__, {}) if self._of_optax else {}
        return {name: interval for name, interval in RANGES.items() if name not in free} | own

    def _accumulators(self) -> frozenset[str]:
        return _ACCUMULATORS if self._of_optax else frozenset()

    @functools.cached_property
    def _of_optax(self) -> bool:
        """Return whether the function is Optax's own, in which a name means one thing."""
        return getattr(self.function, "__module__", "").startswith("optax.")

    @functools.cached_property
    def _body_function(self) -> Callable[..., Any]:
        """The function of Optax, or ours that computes the same within the range of float32."""
        return IN_RANGE.get(self.function, self.function)

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Run the body with Auto axes instead of Explicit ones; masks may be patterns."""
        masks = {name: arguments[name] for name in _MASKS if arguments.get(name) is not None}
        of_paths = {
            name: tree.selector(self.__name__, mask, name)
            for name, mask in masks.items()
            if self._of_optax or isinstance(mask, str)
        }
        try:
            return with_auto_axes(self._body, {**arguments, **of_paths})
        except (TypeError, ValueError) as error:  # in Optax's words, which do not say whose argument it is
            who = self.__name__
            if type(error) not in (TypeError, ValueError) or is_raised_by_user(error) or str(error).startswith(who):
                raise
            raise type(error)(f"{who}: {error}") from error

    def _body(self, arguments: Mapping[str, Any]) -> Any:
        """Run the body, and make its functions compute in float32 unless they only pass leaves on."""
        body = super().run(arguments)
        if isinstance(body, Value) or not (isinstance(body, tuple) and len(body) == 2):
            return body
        pair = body[0], body[1]
        pair = pair if self.traits.passes else widened(pair)
        pair = settled(self.__name__, pair)
        return real_only(self.__name__, pair) if self.traits.real else pair


@transform(any_dtype=True)
def opaque_transform(transformation: Any):
    """Wrap a plain Optax transformation as a value without leaves, equal only to itself."""
    return transformation.init, transformation.update


@schedule
def opaque_schedule(f: Any):
    """Wrap a plain function of the step as a value without leaves, equal only to itself."""
    return f


def named(who: str, factories: Iterable[Any]) -> dict[str, Factory[..., Any]]:
    """Return factories by name, for the text that names them."""
    for factory in factories:
        if not isinstance(factory, Factory):
            raise TypeError(f"{who}: give factories of your own after the text, got {brief(factory)}.")
    return {factory.__name__: factory for factory in factories}


def _opaque(argument: Any, slot: Slot) -> Value:
    """Wrap a plain transformation or function as a value; `optax.MultiSteps` counts as a transformation."""
    pair = (getattr(argument, "init", None), getattr(argument, "update", None))
    if all(map(callable, pair)) and "transform" in slot.takes:
        return opaque_transform(argument)
    if callable(argument) and not isinstance(argument, Factory) and "schedule" in slot.takes:
        return opaque_schedule(argument)
    raise refusal(argument, slot)
