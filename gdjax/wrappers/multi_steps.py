"""Optax's class for gradient accumulation."""

from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gdjax.tree import Tree
from gdjax.value import misplaced
from gdjax.value.arguments import require_dtype
from gdjax.value.diagnose import MismatchError, require_count, require_optimizer
from gdjax.value.printing import brief
from gdjax.value.traits import refuse_example_grads


class MultiSteps(optax.MultiSteps):
    """Optax's `MultiSteps`, which rejects a transform that needs per-example gradients.

    `accumulate` takes the same steps, runs the inner transform only once per step, and is a value.

    State: Optax's `MultiStepsState`.

    Args:
      opt: the transform that takes the steps.
      every_k_schedule: the number of gradients per step, or a function of the step that returns it.
      use_grad_mean: whether to average gradients instead of summing them.
      should_skip_update_fn: a function of updates, step and parameters that selects gradients to skip.
      accumulator_dtype: the dtype of the sum or mean.

    Raises:
      ValueError: if `opt` clips per-example gradients, or if `every_k_schedule` is not a positive integer.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.MultiSteps(gd.sgd(1.0), every_k_schedule=2)
    >>> params = jnp.zeros(1)
    >>> state = tx.init(params)
    >>> for gradient in (1.0, 3.0):
    ...     updates, state = tx.update(jnp.array([gradient]), state, params)
    ...     print(updates)
    [-0.]
    [-2.]
    """

    def __init__(
        self,
        opt: optax.GradientTransformation,
        every_k_schedule: Any,
        use_grad_mean: bool = True,
        should_skip_update_fn: Any = None,
        accumulator_dtype: Any = jnp.float32,
    ):
        require_optimizer("MultiSteps", opt, "opt")
        _require_function_or_none("should_skip_update_fn", should_skip_update_fn)
        require_dtype("MultiSteps", "accumulator_dtype", accumulator_dtype)
        refuse_example_grads("MultiSteps", opt, "opt")
        every: Any = every_k_schedule
        if not callable(every):
            require_count("MultiSteps", "every_k_schedule", every)
        super().__init__(opt, every_k_schedule, use_grad_mean, should_skip_update_fn, accumulator_dtype)
        self._arguments = opt, every_k_schedule, use_grad_mean, should_skip_update_fn, accumulator_dtype

    def __reduce__(self) -> Any:
        return type(self), self._arguments

    def init(self, params: Tree) -> optax.MultiStepsState:
        """Return the state before the first gradient."""
        if what := misplaced.of_init(params):
            raise MismatchError("MultiSteps", what)
        return super().init(params)

    def update(self, updates: Tree, state: Tree, params: Tree = None, **extra_args: object) -> tuple[Tree, Tree]:
        """Return the updates, which are zeros until the last gradient of a step, and the new state."""
        self._require_state(updates, state, params)
        return super().update(updates, state, params, **extra_args)

    def has_updated(self, state: Tree) -> ArrayLike:
        """Return whether the last gradient completed a step."""
        self._require_state(None, state, None)
        return super().has_updated(state)

    def _require_state(self, updates: Any, state: Any, params: Any) -> None:
        if not isinstance(state, optax.MultiStepsState):
            what = f"state must be what init(params) returns, got {brief(state)}"
            raise MismatchError("MultiSteps", misplaced.of_update(self, updates, state, params) or what)


def _require_function_or_none(name: str, given: Any) -> None:
    if not (given is None or callable(given)):
        raise TypeError(f"MultiSteps: {name} must be a function of updates, step and parameters, got {brief(given)}.")
