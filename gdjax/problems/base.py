"""The value that is a problem: what there is to descend on."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec

import jax

from gdjax.problems.checks import may_be_rows, shapes
from gdjax.value import Factory, diagnose
from gdjax.value.base import Value, register
from gdjax.value.factory import declared
from gdjax.value.printing import text

P = ParamSpec("P")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What the function of a problem returns; `Problem` tells what each of them is.

    `init` and `loss` are needed. All but these and the metrics may be functions without arguments, called when they are
    asked for: data that must be loaded, or what is made of a number that may be a tracer.
    """

    init: Callable[[Any], Any] = None  # pyright: ignore[reportAssignmentType]  (refused below, in our own words)
    loss: Callable[..., Any] = None  # pyright: ignore[reportAssignmentType]
    train: Any = None
    held_out: Any = None
    metrics: Mapping[str, Callable[..., Any]] | None = None
    optimum: Any = None
    minimizer: Any = None
    target: Any = None
    optimizer: Any = "adam(1e-3)"
    batch_size: Any = "full"
    epochs: Any = None
    steps: Any = None

    def __post_init__(self) -> None:
        for name in ("init", "loss"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Parts: {name} must be a function, got {text(getattr(self, name))}.")
        if self.metrics is not None and not isinstance(self.metrics, Mapping):
            raise TypeError(f"Parts: metrics must be functions by name, a dict, got {text(self.metrics)}.")
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"Parts: give epochs or steps, got {self.epochs} and {self.steps}.")


@register
class Problem(Value):
    """A function of parameters to descend on: how they start, the data, what is measured and what is known.

    Numbers in it are the leaves of a pytree, as those of an optimizer: `vmap` descends on many conditions at once.
    """

    @property
    def init(self) -> Callable[[Any], Any]:
        """`init(key)`, the parameters at the start, of a PRNG key."""
        return _Start(self)

    @property
    def loss(self) -> Callable[..., jax.Array]:
        """`loss(params, batch)`, or `loss(params, batch, key)`, a scalar; `batch` is rows of `train`.

        Those of equal problems are equal, so that what is compiled of one serves the other.
        """
        return _OfBatches(self, None)

    @property
    def train(self) -> Any:
        """The data, a tree of arrays with one leading axis, or `None` for a function of the parameters alone."""
        return _asked(self.parts().train)

    @property
    def held_out(self) -> Any:
        """The like, kept from the descent, or `None`."""
        return _asked(self.parts().held_out)

    @property
    def metrics(self) -> Mapping[str, Callable[..., jax.Array]]:
        """What is measured on `held_out`: functions of `(params, batch)` by name.

        Unless the problem names its own: the gap between the loss and its optimum where there are no data, else the
        loss of what is held out.
        """
        parts = self.parts()
        if parts.metrics is not None:
            return {name: _OfBatches(self, name) for name in parts.metrics}
        if parts.train is None and parts.optimum is not None:
            return {"gap": _Gap(self)}
        return {"loss": self.loss} if parts.train is None or parts.held_out is not None else {}

    @property
    def optimum(self) -> Any:
        """The least that the loss can be, of all of `train`; `None` where it is not known."""
        return _asked(self.parts().optimum)

    @property
    def minimizer(self) -> Any:
        """Parameters of that loss, as NumPy arrays, or `None`."""
        return _asked(self.parts().minimizer)

    @property
    def target(self) -> str | None:
        """What the default run reaches: the name of a metric, `<` or `>`, and a number."""
        return _asked(self.parts().target)

    @property
    def optimizer(self) -> str:
        """The text of an optimizer to begin with."""
        return _asked(self.parts().optimizer)

    @property
    def batch_size(self) -> Any:
        """Rows a step to begin with, or `"full"`."""
        return _asked(self.parts().batch_size)

    @property
    def epochs(self) -> int | None:
        """Times through the data to begin with, or `None`: then `steps` says it."""
        return _asked(self.parts().epochs)

    @property
    def steps(self) -> int | None:
        """Steps to begin with, or `None`: then `epochs` says it."""
        parts = self.parts()
        return 1_000 if parts.epochs is None and parts.steps is None else _asked(parts.steps)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.factory.function) or "").split("\n")[0]

    def parts(self) -> Parts:
        """What the function returns."""
        with diagnose.branches(self):
            parts = self.body()
        if not isinstance(parts, Parts):
            raise TypeError(f"{self.factory.__name__} must return Parts(init=..., loss=...), got {text(parts)}.")
        return parts

    def check(self) -> None:
        """Run the function once, so that what it refuses is refused when the value is made."""
        self.parts()

    @contextlib.contextmanager
    def _mismatches(self, batch: Any) -> Iterator[None]:
        who = self.factory.__name__
        if batch is not None and self.parts().train is None:
            raise ValueError(f"{who} has no data: its batch is None, got {shapes(batch)}.")
        try:
            yield
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            if (train := self.train) is None or may_be_rows(batch, train):
                raise
            raise ValueError(f"{who}: a batch must be {shapes(train, 'n')}, got {shapes(batch)}.") from error


def _hash(self: Any) -> int:
    """Return a hash of a function of a problem: by value, or by the factory where the problem holds arrays."""
    try:
        return hash((type(self), self.problem))
    except TypeError:
        return hash((type(self), self.problem.factory))


@dataclasses.dataclass(frozen=True)
class _OfBatches:
    """The loss of a problem, or a metric by its name: equal to that of an equal one; says what a batch must be."""

    problem: Problem
    metric: str | None
    __hash__ = _hash

    def __call__(self, params: Any, batch: Any, *more: Any, **named: Any) -> Any:
        with self.problem._mismatches(batch):
            return self._function(params, batch, *more, **named)

    @property
    def _function(self) -> Callable[..., Any]:
        parts = self.problem.parts()
        return parts.loss if self.metric is None else (parts.metrics or {})[self.metric]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)


@dataclasses.dataclass(frozen=True)
class _Start:
    """The parameters of a problem at the start, as a function of a key."""

    problem: Problem
    __hash__ = _hash

    def __call__(self, key: Any) -> Any:
        return self.problem.parts().init(key)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.problem.parts().init)


@dataclasses.dataclass(frozen=True)
class _Gap:
    """The loss of a problem less its optimum."""

    problem: Problem
    __hash__ = _hash

    def __call__(self, params: Any, batch: Any) -> Any:
        return self.problem.loss(params, batch) - self.problem.optimum


def problem(function: Callable[P, Parts], /) -> Factory[P, Problem]:
    """Turn a function that returns `Parts` into a factory of problems.

    As in `transform`, parameters annotated as numbers are leaves, those of other types shape the program.

    >>> import jax.numpy as jnp, gdjax as gd
    >>> @gd.problem
    ... def bowl(depth: gd.Positive = 1.0):
    ...     return gd.problems.Parts(
    ...         init=lambda key: jax.random.normal(key, (3,)),
    ...         loss=lambda params, batch: depth * (params**2).sum(),
    ...         optimum=0.0,
    ...     )
    >>> bowl(2)
    bowl(depth=2.0)
    >>> print(bowl(2).metrics["gap"](jnp.ones(3), None))
    6.0
    """
    return declared(function, Problem)


def _asked(part: Any) -> Any:
    return part() if callable(part) else part
