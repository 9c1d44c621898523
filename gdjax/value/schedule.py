"""The value that is a function of the step."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.value import diagnose
from gdjax.value.base import Value, register
from gdjax.value.printing import brief


@register
class Schedule(Value):
    """A hyperparameter as a function of the step: call it with a count, a scalar comes back."""

    def __call__(self, count: Any) -> jax.Array:
        """The value at step `count`, an integer or an integer array of shape `()`, counted from 0."""
        with diagnose.branches(self):
            number = jnp.asarray(self.body()(count))
        if jnp.ndim(count) == 0 and number.shape:
            raise ValueError(f"{self.factory.__name__}: a schedule must return a scalar, got shape {number.shape}.")
        return number

    def check(self) -> None:
        """Run the body once, so that what it refuses is refused when the value is made."""
        with diagnose.branches(self):
            body = self.body()
        if not callable(body):
            raise TypeError(f"{self.factory.__name__} must return a function of the step, got {brief(body)}.")


def at(number: Any, count: Any) -> Any:
    """A hyperparameter at a step: what a schedule says, or the number itself."""
    return number(count) if callable(number) else number
