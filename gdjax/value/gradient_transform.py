"""The value that is an Optax optimizer."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import optax

from gdjax.value import absent, diagnose, misplaced
from gdjax.value.base import Value, register
from gdjax.value.printing import brief, text, uncalled
from gdjax.value.traits import require_weight_effect


class Functions(NamedTuple):
    """The functions that a factory of transforms returns; the last two are optional."""

    init: Callable[..., Any]
    update: Callable[..., Any]
    again: Callable[..., Any] | None = None
    descend: Callable[..., Any] | None = None


P = ParamSpec("P")
T = TypeVar("T")


def method_usage(way: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a method of a transform say how it is called, where an argument is missing or there is one too many."""

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(*args, **kwargs)
            except TypeError as error:
                if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                    raise  # in the method, not at its call
                who, _, name = getattr(args[0], "__qualname__", "").rpartition(".")
                fault = str(error).partition("() ")[2]
                if fault.startswith("takes "):  # Python counts self
                    taken = ", ".join(p.name for p in _by_position(method)[1:])
                    fault = f"takes ({taken}), got {len(args) - 1} arguments by position"
                raise TypeError(f"{who}: {name}() {fault}; call {way}.") from None

        return call

    return decorate


def _by_position(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


class Method:
    """One of the two functions of a transform. Where tuples are printed, it shows the value that it belongs to."""

    __name__: str

    def __init__(self, kind: type, factory: Any, arguments: Mapping[str, Any]):
        self._made_of = kind, factory, arguments
        self.__qualname__ = f"{factory.__name__}.{self.__name__}"

    @functools.cached_property
    def _value(self) -> Any:
        """Make the value again, once: the parts of a tuple cannot hold it."""
        kind, factory, arguments = self._made_of
        return kind(factory, arguments)

    def __repr__(self) -> str:
        return f"{self._value!r}.{self.__name__}"


class Init(Method):
    """The first function of a transform."""

    __name__ = "init"

    @method_usage("tx.init(params)")
    def __call__(self, params: Any) -> Any:
        """Return the state before the first update."""
        return _init(self._value, params)


class Update(Method):
    """The second function of a transform."""

    __name__ = "update"

    @method_usage("tx.update(grads, state, params)")
    def __call__(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        """Return the new updates and the new state."""
        return _called(self._value, "update", updates, state, params, extra_args)


@register
class GradientTransform(Value, optax.GradientTransformationExtraArgs):
    """A gradient transform: a pair of pure functions, and the hyperparameters that they were made of.

    It unpacks as `init, update = tx` and passes for an Optax optimizer everywhere.

    - `init(params)` returns the state.
    - `update(updates, state, params=None, **extra_args)` returns the new updates and the new state. Extra
      arguments that no part of the transform names are ignored, as in Optax. Only a `weight` of the gradients that none
      takes is an error, since the mean would be wrong.
    """

    def __new__(cls, factory: Any, arguments: Mapping[str, Any]) -> "GradientTransform":
        """Keep the call; the pair of functions it stands for is made when one of them is used."""
        return super().__new__(cls, Init(cls, factory, arguments), Update(cls, factory, arguments))

    def pair(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The functions `(init, update)` that the factory returns."""
        return self._functions()[:2]

    def again(self, updates: Any, state: Any, params: Any = None) -> Any:
        """Compute the updates again from the state after them; `None` if this transform cannot."""
        again = self._functions().again
        return None if again is None else again(updates, state, params)

    @property
    def descends(self) -> bool:
        """Return whether the transform computes new parameters itself, not updates to add."""
        return self._functions().descend is not None

    def descend(self, updates: Any, state: Any, params: Any, **extra_args: Any) -> tuple[Any, Any]:
        """Return the parameters and the state after the step that the transform computes itself."""
        return _called(self, "descend", updates, state, params, extra_args)

    def _functions(self) -> Functions:
        body = self.body()
        if isinstance(body, GradientTransform):
            return Functions(body.init, body.update, body.again, body.descend if body.descends else None)
        if not (isinstance(body, tuple) and 2 <= len(body) <= 4):
            who = self.factory.__name__
            raise TypeError(f"{who} must return (init, update) or a transform, got {text(body)}.")
        return Functions(*body)

    def check(self) -> None:
        """Run the body once, so that what it refuses is refused when the value is made."""
        given, default = self.arguments, self.factory.defaults.get("dim")
        if default is not None and given["dim"] != default and given.get("axis_name", "") is None:
            raise ValueError(
                f"{self.factory.__name__}: dim has no effect without axis_name, over which it says how leaves are "
                f"divided, got dim={given['dim']!r}. Give axis_name too, or leave dim out."
            )
        with diagnose.branches(self):
            self.pair()

    @classmethod
    def _make(cls, iterable: Any) -> optax.GradientTransformationExtraArgs:  # pyright: ignore
        """Return a plain pair, where one of the functions of a value is replaced by hand."""
        return optax.GradientTransformationExtraArgs(*iterable)


def expand(tx: GradientTransform) -> GradientTransform:
    """The chain that a named optimizer stands for; any other transform stands for itself.

    >>> import gdjax as gd
    >>> print(gd.expand(gd.sgd(0.1)))
    chain(identity(), scale_by_learning_rate(learning_rate=0.1, flip_sign=True))
    """
    require_value("expand", tx)
    body = tx.body()
    return body if isinstance(body, GradientTransform) else tx


def require_value(who: str, tx: Any) -> None:
    """Refuse what is no transform of this package."""
    if not isinstance(tx, GradientTransform):
        raise TypeError(f"{who}: tx must be a gdjax transform, got {brief(tx)}{uncalled(tx)}.")


def _init(tx: GradientTransform, params: Any) -> Any:
    who = tx.factory.__name__
    if what := misplaced.of_init(params):
        raise diagnose.MismatchError(who, what)
    with diagnose.axis_errors(who), diagnose.branches(tx):
        init, _ = tx.pair()
        if _takes_any(tx) or not (others := diagnose.not_inexact(params)):
            return init(params)
        try:  # where a transform keeps nothing of a parameter, it may be anything
            state = init(jax.tree.map(lambda x: absent.Untouched() if id(x) in others else x, params))
        except Exception as error:
            raise diagnose.inexact_error(who, "params", params) from error
        if tx.factory.any_dtype is False or any(isinstance(x, absent.Untouched) for x in jax.tree.leaves(state)):
            raise diagnose.inexact_error(who, "params", params)
        return state


def _called(tx: GradientTransform, name: str, updates: Any, state: Any, params: Any, extra_args: dict[str, Any]) -> Any:
    require_weight_effect(tx.factory.__name__, tx, extra_args)
    if updates is None and params is not None and name == "update":  # no leaf has an update
        return None, state
    chosen, given, part = absent.chosen(params, updates), updates, state
    if chosen is not params:
        marked, of_marked = absent.marked(updates, params)
        if (fitting := absent.fitting(tx.init, state, of_marked)) is not None:
            given, chosen, part = marked, of_marked, fitting
    who = tx.factory.__name__
    with diagnose.mismatches(tx, given, part, chosen, extra_args), diagnose.axis_errors(who), diagnose.branches(tx):
        if not _takes_any(tx):
            diagnose.require_inexact(who, "updates", updates)
        function = getattr(tx._functions(), name)
        accepted = _accepted(function, extra_args)
        try:
            after, new = function(given, part, chosen, **_of_all(accepted, chosen, params))
        except (TypeError, ValueError, AttributeError):
            plain = absent.chosen(params, updates)
            like = updates if params is None else plain
            part = absent.fitting(tx.init, state, like) if absent.has_none(updates) else None
            is_the_same = given is updates and jax.tree.structure(part) == jax.tree.structure(state)
            if part is None or is_the_same:
                raise
            after, new = function(updates, part, plain, **_of_all(accepted, plain, params))
            new = absent.refilled(state, new)
    if chosen is params:
        return after, new
    after = absent.completed(after, params) if name == "descend" else absent.unmarked(after, updates)
    return after, absent.refilled(state, new)


def _of_all(extra_args: dict[str, Any], chosen: Any, params: Any) -> dict[str, Any]:
    """Return the extra arguments for an update that sees the chosen parameters alone."""
    if chosen is params:
        return extra_args
    return {key: absent.of_the_whole(x, chosen, params) for key, x in extra_args.items()}


def _accepted(update: Callable[..., Any], extra_args: dict[str, Any]) -> dict[str, Any]:
    """The extra arguments that an update function takes."""
    if not extra_args:
        return extra_args
    parameters = inspect.signature(update).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return extra_args
    return {name: x for name, x in extra_args.items() if name in parameters}


def _takes_any(tx: GradientTransform) -> bool:
    """Return whether a transform takes leaves that have no gradient."""
    declared = tx.factory.any_dtype
    return tx.factory.composes if declared is None else declared
