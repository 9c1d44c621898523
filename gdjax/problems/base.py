"""Problems as values: the `problem` decorator, `Problem` and `Parts`."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec

import jax

from gdjax.problems.checks import could_be_rows, format_shapes
from gdjax.tree import Tree
from gdjax.value import Factory, Scalar, diagnose
from gdjax.value.base import Value, register
from gdjax.value.factory import declared
from gdjax.value.printing import text

P = ParamSpec("P")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of a problem, as returned by a function under `problem`; `Problem` documents each of them.

    `init` and `loss` are required. Any other part but `metrics` may be a function without arguments, called on access.
    That delays loading of data, and use of numbers that may be tracers.
    """

    init: Callable[[jax.Array], Tree] = None  # pyright: ignore[reportAssignmentType]  (rejected below)
    loss: Callable[..., Any] = None  # pyright: ignore[reportAssignmentType]
    train: Tree | Callable[[], Tree] = None
    held_out: Tree | Callable[[], Tree] = None
    metrics: Mapping[str, Callable[..., Any]] | None = None
    optimum: Scalar | Callable[[], Scalar] | None = None
    minimizer: Tree | Callable[[], Tree] = None
    target: str | Callable[[], str | None] | None = None
    optimizer: str | Callable[[], str] = "adam(1e-3)"
    batch_size: int | str | Callable[[], int | str] = "full"
    epochs: int | Callable[[], int] | None = None
    steps: int | Callable[[], int] | None = None

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
    """Problem to optimize: initial parameters, loss, data, metrics, and the optimum where it is known.

    It is a pytree whose leaves are its numbers, like an optimizer: `vmap` can optimize many conditions at once.
    """

    @property
    def init(self) -> Callable[[jax.Array], Tree]:
        """Function `init(key)` that returns the initial parameters for a PRNG key."""
        return _Init(self)

    @property
    def loss(self) -> Callable[..., jax.Array]:
        """Function `loss(params, batch)` or `loss(params, batch, key)` that returns a scalar.

        `batch` holds rows of `train`. Equal problems have equal losses, so a program compiled for one serves the other.
        """
        return _BatchFunction(self, None)

    @property
    def train(self) -> Tree:
        """Training data, a tree of arrays with a common leading axis; `None` for a function of the parameters alone."""
        return _call_if_callable(self.parts().train)

    @property
    def held_out(self) -> Tree:
        """Held-out data of the same structure, or `None`."""
        return _call_if_callable(self.parts().held_out)

    @property
    def metrics(self) -> Mapping[str, Callable[..., jax.Array]]:
        """Functions of `(params, batch)` by name, to evaluate on `held_out`.

        The default without data is `gap`, the loss minus its optimum, and with held-out data it is `loss`.
        """
        parts = self.parts()
        if parts.metrics is not None:
            return {name: _BatchFunction(self, name) for name in parts.metrics}
        if parts.train is None and parts.optimum is not None:
            return {"gap": _Gap(self)}
        return {"loss": self.loss} if parts.train is None or parts.held_out is not None else {}

    @property
    def optimum(self) -> Scalar | None:
        """Minimum of the loss over all of `train`, or `None` if it is unknown."""
        return _call_if_callable(self.parts().optimum)

    @property
    def minimizer(self) -> Tree:
        """Parameters at the minimum, as NumPy arrays, or `None`."""
        return _call_if_callable(self.parts().minimizer)

    @property
    def target(self) -> str | None:
        """Goal that the default run reaches, such as `gap<1e-9`: a metric, `<` or `>`, and a number."""
        return _call_if_callable(self.parts().target)

    @property
    def optimizer(self) -> str:
        """Default optimizer, as text."""
        return _call_if_callable(self.parts().optimizer)

    @property
    def batch_size(self) -> int | str:
        """Default number of rows per step, or `"full"`."""
        return _call_if_callable(self.parts().batch_size)

    @property
    def epochs(self) -> int | None:
        """Default number of passes over the data, or `None` if `steps` gives the length of a run."""
        return _call_if_callable(self.parts().epochs)

    @property
    def steps(self) -> int | None:
        """Default number of steps, or `None` if `epochs` gives the length of a run."""
        parts = self.parts()
        return 1_000 if parts.epochs is None and parts.steps is None else _call_if_callable(parts.steps)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.factory.function) or "").split("\n")[0]

    def parts(self) -> Parts:
        """Return what the decorated function returns."""
        with diagnose.branches(self):
            parts = self.body()
        if not isinstance(parts, Parts):
            raise TypeError(f"{self.factory.__name__} must return Parts(init=..., loss=...), got {text(parts)}.")
        return parts

    def check(self) -> None:
        """Run the function once, so that invalid arguments fail when the value is made."""
        self.parts()

    @contextlib.contextmanager
    def _explain_wrong_batch(self, batch: Any) -> Iterator[None]:
        who = self.factory.__name__
        if batch is not None and self.parts().train is None:
            raise ValueError(f"{who}: batch must be None, since there are no data, got {format_shapes(batch)}.")
        try:
            yield
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            if (train := self.train) is None or could_be_rows(batch, train):
                raise
            raise ValueError(
                f"{who}: batch must be {format_shapes(train, 'n')}, got {format_shapes(batch)}."
            ) from error


def _hash(self: Any) -> int:
    """Hash a function of a problem: by value, or by the factory if the problem holds arrays."""
    try:
        return hash((type(self), self.problem))
    except TypeError:
        return hash((type(self), self.problem.factory))


@dataclasses.dataclass(frozen=True)
class _BatchFunction:
    """Loss or metric of a problem: compares by value, and explains a batch of a wrong shape."""

    problem: Problem
    metric: str | None
    """The name of the metric; `None` for the loss."""
    __hash__ = _hash

    def __call__(self, params: Any, batch: Any, *more: Any, **named: Any) -> Any:
        with self.problem._explain_wrong_batch(batch):
            return self._function(params, batch, *more, **named)

    @property
    def _function(self) -> Callable[..., Any]:
        parts = self.problem.parts()
        return parts.loss if self.metric is None else (parts.metrics or {})[self.metric]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)


@dataclasses.dataclass(frozen=True)
class _Init:
    """Function of a key that returns the initial parameters of a problem."""

    problem: Problem
    __hash__ = _hash

    def __call__(self, key: Any) -> Any:
        return self.problem.parts().init(key)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.problem.parts().init)


@dataclasses.dataclass(frozen=True)
class _Gap:
    """Loss of a problem minus its optimum."""

    problem: Problem
    __hash__ = _hash

    def __call__(self, params: Any, batch: Any) -> Any:
        return self.problem.loss(params, batch) - self.problem.optimum  # pyright: ignore[reportOperatorIssue]


def problem(function: Callable[P, Parts], /) -> Factory[P, Problem]:
    """Decorate a function that returns `Parts`, to make it a factory of problems.

    As with `transform`, parameters annotated as numbers are leaves; all others are static.

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


def _call_if_callable(part: Any) -> Any:
    return part() if callable(part) else part
