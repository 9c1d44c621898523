"""Reduce the step size when the loss stops improving."""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ReduceLROnPlateauState

from gdjax.transforms.scaling import multiply_updates
from gdjax.value import Interval, NonNegative, Scalar, transform


@transform(elementwise=True, upcast=True)
def reduce_on_plateau(
    factor: Annotated[Scalar, Interval("(0, 1)")] = 0.1,
    patience: Annotated[Scalar, Interval("[1, inf)")] = 10,
    rtol: Annotated[Scalar, Interval("[0, 1]")] = 1e-4,
    atol: NonNegative = 0.0,
    cooldown: NonNegative = 0,
    accumulation_size: Annotated[Scalar, Interval("[1, inf)")] = 1,
    min_scale: NonNegative = 0.0,
):
    r"""Multiply by a scale that is reduced by a factor whenever the loss stops improving.

    A value $f$ is the mean of `accumulation_size` losses. It improves on the best value $b$ if
    $f < b - \rho |b| - \alpha$. After `patience` values without improvement, $s \leftarrow \max(\gamma s, s_{min})$.
    The update is $s g$.

    State: `ReduceLROnPlateauState(scale, best_value, plateau_count, cooldown_count, count, avg_value)`, 24 bytes in
    all (36 where floats are float64). Differs from Optax, which has $b$ instead of $|b|$, and so counts a negative loss
    that is equal to the best, or slightly worse, as an improvement. The numbers are at least float32.

    Args:
      factor: $\gamma$, in (0, 1).
      patience: the number of values without improvement before a reduction, in [1, inf).
      rtol: $\rho$, in [0, 1].
      atol: $\alpha$, in [0, inf); `rtol` or `atol` must be above 0.
      cooldown: the number of values to ignore after a reduction, in [0, inf).
      accumulation_size: the number of losses averaged into a value, in [1, inf).
      min_scale: $s_{min}$, in [0, inf).

    Raises:
      ValueError: if both tolerances are 0, or if `update` is called without `value`, the loss.

    >>> import gdjax as gd
    >>> tx = gd.reduce_on_plateau(factor=0.5, patience=2)
    >>> state = tx.init(0.0)
    >>> for loss in (-1.0, -1.0, -1.0):
    ...     update, state = tx.update(1.0, state, value=loss)
    >>> print(update)
    0.5
    """
    if isinstance(rtol, float) and isinstance(atol, float) and rtol == atol == 0.0:
        raise ValueError("reduce_on_plateau: one of rtol and atol must be above 0, got 0.0 for both.")

    def init(params):
        counts = {name: jnp.zeros((), jnp.int32) for name in ("plateau_count", "cooldown_count", "count")}
        best, mean = jnp.full((), jnp.inf, float), jnp.zeros((), float)
        return ReduceLROnPlateauState(jnp.ones((), float), best_value=best, avg_value=mean, **counts)

    def update(updates, state, params=None, *, value=None):
        if value is None:
            raise ValueError("reduce_on_plateau needs the loss: call update(updates, state, params, value=loss).")
        count = jnp.asarray(optax.safe_increment(state.count))
        mean = state.avg_value + (jnp.asarray(value, float) - state.avg_value) / count.astype(float)
        accumulated = state._replace(count=count, avg_value=mean)
        full = count.astype(float) >= accumulation_size
        state = jax.tree.map(lambda new, old: jnp.where(full, new, old), evaluate(accumulated), accumulated)
        return multiply_updates(updates, state.scale), state

    def evaluate(state):
        best, cooling = state.best_value, state.cooldown_count > 0
        improved = state.avg_value < jnp.where(jnp.isinf(best), best, best - rtol * jnp.abs(best) - atol)
        plateau_count = jnp.where(improved, 0, optax.safe_increment(state.plateau_count))
        reduces = (plateau_count.astype(float) >= patience) & ~cooling
        reduced = jnp.maximum(state.scale * factor, min_scale)
        remaining = jnp.where(reduces, jnp.asarray(cooldown, jnp.int32), jnp.maximum(state.cooldown_count - 1, 0))
        return ReduceLROnPlateauState(
            scale=jnp.where(reduces, reduced, state.scale).astype(state.scale.dtype),
            best_value=jnp.where(improved, state.avg_value, best),
            plateau_count=jnp.where(reduces | cooling, 0, plateau_count),
            cooldown_count=remaining,
            count=jnp.zeros_like(state.count),
            avg_value=jnp.zeros_like(state.avg_value),
        )

    return init, update
