"""What is measured of the parameters, beside the loss, and how often."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gdjax.descent.data.batching import Plan
from gdjax.descent.step.step import State
from gdjax.value.diagnose import require_count
from gdjax.wrappers.eval_params import eval_params

EVERY = 100
"""Steps between evaluations where an epoch is one step."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """A function of the parameters that a descent calls now and then.

    Args:
      function: `function(params)`, or `function(params, extra)` with that name, returns a scalar or a dict of scalars.
      every: steps between two calls; an epoch by default, 100 where an epoch is one step.
    """

    function: Callable[..., Any]
    every: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"Evaluate: a function of the parameters is needed, got {self.function!r}.")
        if self.every is not None:
            require_count("Evaluate", "every", self.every)
        self._require_signature()

    def _require_signature(self) -> None:
        """Refuse a function that cannot be called with parameters, and with `extra` by name if it has that."""
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # some built-in functions have none
            return
        extra = {"extra": None} if "extra" in signature.parameters else {}
        try:
            signature.bind(None, **extra)
        except TypeError:
            way = "close over all else, held-out data too"
            raise TypeError(f"Evaluate: function must take (params), it takes {signature}; {way}.") from None

    @classmethod
    def of(cls, evaluate: Any) -> "Evaluate | None":
        """What `fit` was given."""
        return evaluate if evaluate is None or isinstance(evaluate, cls) else cls(evaluate)

    def steps(self, plan: Plan | None) -> int | None:
        """Steps between evaluations; `None` where an epoch ends when the data say so."""
        if self.every is not None or plan is None:
            return self.every
        return plan.per_epoch if plan.per_epoch > 1 else EVERY

    def __call__(self, tx: Any, state: State) -> dict[str, float]:
        """Evaluate a state."""
        extra = {"extra": state.extra} if "extra" in inspect.signature(self.function).parameters else {}
        found = self.function(eval_params(tx, state.opt_state, state.params), **extra)
        named = found if isinstance(found, dict) else {"evaluation": found}
        for name, value in named.items():
            held = isinstance(value, (dict, list, tuple))
            if held or jnp.shape(value):
                what = f"a {type(value).__name__}" if held else f"shape {jnp.shape(value)}"
                raise TypeError(f"fit: evaluate must return scalars, got {what} for {name!r}.")
        return {name: _number(name, value) for name, value in named.items()}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"fit: evaluate must return numbers, got {value!r} for {name!r}.") from None
