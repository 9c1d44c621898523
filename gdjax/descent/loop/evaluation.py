"""Evaluate the parameters during a descent."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from gdjax.descent.data.batching import Batching
from gdjax.descent.step.step import State
from gdjax.value.diagnose import require_count
from gdjax.wrappers.eval_params import eval_params

EVERY = 100
"""Steps between evaluations where an epoch is one step."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """A function of the parameters that a descent calls at intervals.

    Args:
      function: `function(params)`, or `function(params, extra)` with that name, returns a scalar or a dict of scalars.
      every: steps between two calls; an epoch by default, 100 where an epoch is one step.
    """

    function: Callable[..., Any]
    every: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"Evaluate: function must be a function of the parameters, got {self.function!r}.")
        if self.every is not None:
            require_count("Evaluate", "every", self.every)
        self._require_signature()

    def _require_signature(self) -> None:
        """Raise unless the function can be called with parameters, and with `extra` by name if it has that."""
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # some built-in functions have none
            return
        extra = {"extra": None} if "extra" in signature.parameters else {}
        try:
            signature.bind(None, **extra)
        except TypeError:
            raise TypeError(
                f"Evaluate: function must take (params), it takes {signature}. Close over all else, held-out data too."
            ) from None

    @classmethod
    def of(cls, evaluate: "Callable[..., Any] | Evaluate | None") -> "Evaluate | None":
        """Return the `Evaluate` for the `evaluate` of `fit`: a function alone gets the default interval."""
        return evaluate if evaluate is None or isinstance(evaluate, cls) else cls(evaluate)

    def interval(self, batching: Batching | None) -> int | None:
        """Return the steps between evaluations; `None` means at the end of every epoch of an iterable."""
        if self.every is not None or batching is None:
            return self.every
        return batching.steps_per_epoch if batching.steps_per_epoch > 1 else EVERY

    def __call__(self, tx: optax.GradientTransformation, state: State) -> dict[str, float]:
        """Evaluate a state, and return its metrics by name."""
        extra = {"extra": state.extra} if "extra" in inspect.signature(self.function).parameters else {}
        result = self.function(eval_params(tx, state.opt_state, state.params), **extra)
        named = result if isinstance(result, dict) else {"evaluation": result}
        for name, value in named.items():
            is_container = isinstance(value, (dict, list, tuple))
            if is_container or jnp.shape(value):
                got = f"a {type(value).__name__}" if is_container else f"shape {jnp.shape(value)}"
                raise TypeError(f"fit: evaluate must return scalars, got {got} for {name!r}.")
        return {name: _to_float(name, value) for name, value in named.items()}


def _to_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"fit: evaluate must return numbers, got {value!r} for {name!r}.") from None
