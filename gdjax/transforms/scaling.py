"""Multiply updates by a number, such as the learning rate."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gdjax import tree
from gdjax.tree import Tree
from gdjax.value import Rate, Scalar, stateless, transform


@transform(any_dtype=True, elementwise=True)
def identity():
    """Return the updates unchanged.

    Stateless: 0 bytes per parameter.

    >>> import gdjax as gd
    >>> gd.identity().update(1.0, ())
    (1.0, ())
    """
    return stateless(lambda updates, params: updates)


@transform(elementwise=True, upcast=True)
def scale(step_size: Scalar):
    r"""Multiply by a number: $\alpha g$.

    Stateless: 0 bytes per parameter.

    Args:
      step_size: $\alpha$, any number.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale(-0.5).update(jnp.ones(2), ())[0])
    [-0.5 -0.5]
    """
    return stateless(lambda updates, params: multiply_updates(updates, step_size))


@transform(elementwise=True, upcast=True)
def scale_by_schedule(step_size_fn: optax.Schedule):
    r"""Multiply by a schedule of the step: $\alpha_t g$, $t = 0, 1, \dots$.

    State: `ScaleByScheduleState(count)`, 4 bytes in all.

    Args:
      step_size_fn: $\alpha$, a function of the count that returns a scalar.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_schedule(gd.constant(2.0))
    >>> print(tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0])
    [2. 2.]
    """
    return _scale_by_schedule(step_size_fn)


@transform(elementwise=True, upcast=True)
def scale_by_learning_rate(learning_rate: Rate | None = None, *, flip_sign: bool = True):
    r"""Multiply by the learning rate and negate, in order to descend: $-\eta g$.

    State: none, or `ScaleByScheduleState(count)` if $\eta$ is a schedule, 4 bytes in all.

    Args:
      learning_rate: $\eta$, a number or a schedule of it; `None` returns the updates unchanged.
      flip_sign: whether to negate the updates; without, they ascend.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> print(gd.scale_by_learning_rate(0.1).update(jnp.ones(2), ())[0])
    [-0.1 -0.1]
    """
    sign = -1.0 if flip_sign else 1.0
    if learning_rate is None:
        return stateless(lambda updates, params: updates)
    if callable(learning_rate):
        return _scale_by_schedule(lambda count: sign * learning_rate(count))
    return stateless(lambda updates, params: multiply_updates(updates, sign * learning_rate))


def _scale_by_schedule(step_size_fn):
    """Return the functions of a transform that multiplies by a schedule."""

    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        new = optax.ScaleByScheduleState(count=optax.safe_increment(state.count))
        return multiply_updates(updates, step_size_fn(state.count)), new

    def again(updates, state, params=None):
        return multiply_updates(updates, step_size_fn(state.count - 1))

    return init, update, again


def multiply_updates(updates: Tree, number: ArrayLike) -> Tree:
    """Multiply each leaf by a number."""
    return jax.tree.map(lambda g: tree.scalar(number, g) * g, updates)
