"""The value that is a function of the step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gdjax.value import diagnose
from gdjax.value.base import Value, register
from gdjax.value.printing import brief, uncalled


class _FunctionOfTheStep(type):
    """A metaclass that counts every function of the step as an instance, as `optax.Schedule` does."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return callable(instance) and not isinstance(instance, type) and not uncalled(instance)


@register
class Schedule(Value, metaclass=_FunctionOfTheStep):
    """A hyperparameter as a function of the step: called with a count, it returns a scalar.

    Any function of the step passes for one: `isinstance(lambda count: 0.1, gd.Schedule)` is true.
    """

    def __call__(self, count: Any) -> jax.Array:
        """Return the value at step `count`, an integer or an integer array of shape `()`, counted from 0."""
        try:
            with diagnose.branches(self):
                number = jnp.asarray(self.body()(count))
        except (TypeError, ValueError, AttributeError) as error:
            if hasattr(count, "dtype") or isinstance(count, (int, float)):
                raise
            raise TypeError(
                f"{self.factory.__name__}: the count must be a number of steps, got {brief(count)}."
            ) from error
        if jnp.ndim(count) == 0 and number.size == 1:
            return number.reshape(())
        if jnp.ndim(count) == 0 and number.shape:
            raise ValueError(f"{self.factory.__name__}: a schedule must return a scalar, got shape {number.shape}.")
        return number

    def check(self) -> None:
        """Run the body once, so that what it refuses is refused when the value is made."""
        with diagnose.branches(self):
            body = self.body()
        if not callable(body):
            raise TypeError(f"{self.factory.__name__} must return a function of the step, got {brief(body)}.")


def at(number: optax.ScalarOrSchedule, count: ArrayLike) -> ArrayLike:
    """Return a hyperparameter at a step: the value of a schedule, or the number itself."""
    return number(count) if callable(number) else number
