"""Criteria that end a descent, combined by `|` and `&`.

A criterion is a set of pure functions of metrics, run on the device after every step. So a descent ends at exactly the
step that meets it, however many steps one dispatch takes.
"""

import dataclasses
import enum
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import optax

from gdjax.explaining import explain_usage
from gdjax.value.diagnose import require_count
from gdjax.value.printing import brief

P = ParamSpec("P")
Metrics = Mapping[str, Any]
"""New metrics by name: `step` (steps taken), `loss`, ... after a step; evaluations; or `seconds`."""


class Stopped(enum.StrEnum):
    """The reason a descent ended."""

    STEPS = "steps"
    TARGET = "target"
    PLATEAU = "plateau"
    TOLERANCE = "tolerance"
    SECONDS = "seconds"
    NONFINITE = "nonfinite"
    EXHAUSTED = "exhausted"
    CALLBACK = "callback"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


Ending = tuple[Stopped, str]
"""The reason a descent ends, as a value and in words."""


@dataclasses.dataclass(frozen=True, repr=False)
class Criterion:
    """A criterion that ends a descent; criteria with the same printed form are equal."""

    text: str
    init: Callable[[], Any] = dataclasses.field(compare=False)
    """Return the initial state, a tree of arrays."""
    update: Callable[[Any, Metrics], Any] = dataclasses.field(compare=False)
    """Return the state after new metrics; unchanged if they do not concern the criterion."""
    met: Callable[[Any], jax.Array] = dataclasses.field(compare=False)
    """Return whether the descent ends, a boolean of shape ()."""
    because: Callable[[Any], Ending | None] = dataclasses.field(compare=False)
    """Return the ending if the criterion is met, on the host; else `None`."""
    watched: frozenset[str] = dataclasses.field(compare=False)
    """Names of the metrics that it needs."""
    tolerates_nonfinite: bool = dataclasses.field(default=False, compare=False)
    """Does it set how many non-finite steps are tolerated?"""
    made_by: tuple[Callable[..., Any], tuple[Any, ...]] | None = dataclasses.field(default=None, compare=False)
    """The call that makes it, for pickling; `None` pickles the functions themselves."""

    def __or__(self, other: "Criterion") -> "Criterion":
        _require_criterion("|", other)

        def because(state: Any) -> Ending | None:
            return self.because(state[0]) or other.because(state[1])

        both = _both(f"{self} | {other}", self, other, jnp.logical_or, because)
        return dataclasses.replace(both, made_by=(operator.or_, (self, other)))

    def __and__(self, other: "Criterion") -> "Criterion":
        _require_criterion("&", other)

        def because(state: Any) -> Ending | None:
            one, two = self.because(state[0]), other.because(state[1])
            return (one[0], f"{one[1]} and {two[1]}") if one and two else None

        left, right = (f"({side})" if " | " in str(side) else str(side) for side in (self, other))
        both = _both(f"{left} & {right}", self, other, jnp.logical_and, because)
        return dataclasses.replace(both, made_by=(operator.and_, (self, other)))

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> Any:
        return self.made_by or (Criterion, tuple(getattr(self, field.name) for field in dataclasses.fields(self)))


def _picklable(function: Callable[P, Criterion]) -> Callable[P, Criterion]:
    """Decorate a function of this module, so that its criteria are pickled as the call that made them."""

    @explain_usage(f"stop.{function.__name__}")
    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> Criterion:
        return dataclasses.replace(function(*args, **kwargs), made_by=(_make_again, (function.__name__, args, kwargs)))

    return make


def _make_again(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Criterion:
    return globals()[name](*args, **kwargs)


@_picklable
def target(name: str, *, above: float | None = None, below: float | None = None) -> Criterion:
    """End when a metric passes a bound: `loss`, `grad_norm` or what is evaluated.

    Args:
      name: the metric.
      above: ends when the metric is greater.
      below: ends when the metric is less. Give one of the two.

    >>> target("accuracy", above=0.97)
    target('accuracy', above=0.97)
    """
    _require_name("target", "name", name)
    for side, bound in (("above", above), ("below", below)):
        if bound is not None:
            _require_number("target", side, bound)
    if above is not None and below is None:
        text, sign, bound = f"target({name!r}, above={above!r})", ">", above
    elif below is not None and above is None:
        text, sign, bound = f"target({name!r}, below={below!r})", "<", below
    else:
        raise ValueError(f"stop.target: one of above and below must be given, got above={above}, below={below}.")
    if math.isnan(bound):
        raise ValueError("stop.target: the bound must be a number, got nan.")
    passes = (lambda x: x > bound) if sign == ">" else (lambda x: x < bound)
    return _last(text, name, passes, lambda x: (Stopped.TARGET, f"{name} {x:.6g} {sign} {bound:g}"))


@_picklable
def plateau(patience: int, min_delta: float = 0.0, metric: str = "loss", *, higher: bool = False) -> Criterion:
    """End when a metric has not improved for a while.

    Args:
      patience: number of values (one a step, or one an evaluation) without a new best, at least 1.
      min_delta: smallest improvement that makes a new best, at least 0.
      metric: its name.
      higher: True if higher is better.
    """
    require_count("stop.plateau", "patience", patience)
    _require_name("plateau", "metric", metric)
    _require_number("plateau", "min_delta", min_delta)
    if not isinstance(higher, bool):
        raise TypeError(f"stop.plateau: higher must be True or False, got {brief(higher)}.")
    if not min_delta >= 0:
        raise ValueError(f"stop.plateau: min_delta must be at least 0, got {min_delta}.")

    def init() -> Any:
        return jnp.asarray(-math.inf if higher else math.inf, jnp.float32), jnp.zeros((), jnp.int32)

    def update(state: Any, metrics: Metrics) -> Any:
        if metric not in metrics:
            return state
        best, waited = state
        value = jnp.asarray(metrics[metric]).astype(jnp.float32)
        better = value > best + min_delta if higher else value < best - min_delta
        return jnp.where(better, value, best), jnp.where(better, 0, optax.safe_increment(waited))

    def because(state: Any) -> Ending | None:
        best, waited = state
        words = f"{metric} not better than {float(best):.6g} for {int(waited):,} times"
        return (Stopped.PLATEAU, words) if waited >= patience else None

    text = f"plateau({patience}, min_delta={min_delta!r}, metric={metric!r}, higher={higher})"
    return Criterion(text, init, update, lambda state: state[1] >= patience, because, frozenset({metric}))


@_picklable
def tolerance(*, grad_norm: float) -> Criterion:
    """End when the norm of the gradient is at most `grad_norm`, which is greater than 0."""
    _require_number("tolerance", "grad_norm", grad_norm)
    if not grad_norm > 0:
        raise ValueError(f"stop.tolerance: grad_norm must be greater than 0, got {grad_norm}.")

    def words(norm: float) -> Ending:
        return Stopped.TOLERANCE, f"gradient norm {norm:.6g} <= {grad_norm:g}"

    return _last(f"tolerance(grad_norm={grad_norm!r})", "grad_norm", lambda norm: norm <= grad_norm, words)


@_picklable
def steps(number: int) -> Criterion:
    """End after a number of steps, at least 1; those before a resumption count."""
    require_count("stop.steps", "number", number)
    words = Stopped.STEPS, f"{number:,} steps taken"
    return _last(f"steps({number})", "step", lambda step: step >= number, lambda _: words)


@_picklable
def seconds(number: float) -> Criterion:
    """End after a time greater than 0, checked between dispatches; the time before a resumption counts."""
    _require_number("seconds", "number", number)
    if not number > 0:
        raise ValueError(f"stop.seconds: the number must be greater than 0, got {number}.")

    def words(taken: float) -> Ending:
        return Stopped.SECONDS, f"{taken:.1f} s of {number:g} s"

    return _last(f"seconds({number!r})", "seconds", lambda taken: taken >= number, words)


@_picklable
def nonfinite(patience: int = 1) -> Criterion:
    """End after steps in a row whose loss or gradient is not finite; such a step changes only the count.

    Every descent ends after one such step, unless its criterion contains `nonfinite(n)`.

    Args:
      patience: number of such steps in a row, at least 1.
    """
    require_count("stop.nonfinite", "patience", patience)

    def init() -> Any:
        return jnp.zeros((), jnp.int32), jnp.zeros((2,), jnp.float32)

    def update(state: Any, metrics: Metrics) -> Any:
        if "loss" not in metrics:
            return state
        last = jnp.stack([jnp.asarray(metrics[name]).astype(jnp.float32) for name in ("loss", "grad_norm")])
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        return jnp.where(finite, 0, optax.safe_increment(state[0])), last

    def because(state: Any) -> Ending | None:
        in_a_row = f" for {patience} steps in a row" if patience > 1 else ""
        words = "loss {:g}, gradient norm {:g}".format(*map(float, state[1]))
        return (Stopped.NONFINITE, words + in_a_row) if state[0] >= patience else None

    met, watched = (lambda state: state[0] >= patience), frozenset[str]()
    return Criterion(f"nonfinite({patience})", init, update, met, because, watched, tolerates_nonfinite=True)


def with_nonfinite(stop: Criterion | None) -> Criterion:
    """Return a criterion that also ends at the first step that is not finite, unless it tolerates such steps."""
    if stop is None:
        return nonfinite()
    return stop if stop.tolerates_nonfinite else nonfinite() | stop


def _require_number(who: str, name: str, number: Any) -> None:
    """Raise unless it is a number."""
    if isinstance(number, (bool, str)) or not hasattr(number, "__float__"):
        raise TypeError(f"stop.{who}: {name} must be a number, got {number!r}.")


def _require_name(who: str, name: str, given: Any) -> None:
    """Raise unless it is the name of a metric."""
    if not isinstance(given, str):
        raise TypeError(f"stop.{who}: {name} must be the name of a metric, got {given!r}.")


def _require_criterion(sign: str, given: Any) -> None:
    """Raise unless both sides of an operator are criteria."""
    if not isinstance(given, Criterion):
        hint = f"; call it: gd.stop.{given.__name__}(...)" if getattr(given, "__module__", "") == __name__ else ""
        raise TypeError(f"stop: {sign} must stand between two criteria, got {brief(given)}{hint}.")


def _last(text: str, name: str, passes: Callable[[Any], Any], words: Callable[[float], Ending]) -> Criterion:
    """Return a criterion on the last value of one metric."""

    def init() -> Any:
        return jnp.asarray(False), jnp.asarray(math.nan, jnp.float32)

    def update(state: Any, metrics: Metrics) -> Any:
        if name not in metrics:
            return state
        return jnp.asarray(passes(metrics[name])), jnp.asarray(metrics[name]).astype(jnp.float32)

    def because(state: Any) -> Ending | None:
        return words(float(state[1])) if state[0] else None

    return Criterion(text, init, update, lambda state: state[0], because, frozenset({name}))


def _both(text: str, one: Criterion, other: Criterion, combine: Callable[..., Any], because: Any) -> Criterion:
    """Return two criteria as one, whose state is the pair of their states."""

    def update(state: Any, metrics: Metrics) -> Any:
        return one.update(state[0], metrics), other.update(state[1], metrics)

    return Criterion(
        text,
        init=lambda: (one.init(), other.init()),
        update=update,
        met=lambda state: combine(one.met(state[0]), other.met(state[1])),
        because=because,
        watched=one.watched | other.watched,
        tolerates_nonfinite=one.tolerates_nonfinite or other.tolerates_nonfinite,
    )
