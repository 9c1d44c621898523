"""Shorter steps where the loss no longer falls."""

from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ReduceLROnPlateauState

from gdjax.transforms.scaling import scaled
from gdjax.value import Interval, NonNegative, Scalar, transform


@transform(elementwise=True)
def reduce_on_plateau(
    factor: Annotated[Scalar, Interval("(0, 1)")] = 0.1,
    patience: Annotated[Scalar, Interval("[1, inf)")] = 10,
    rtol: Annotated[Scalar, Interval("[0, 1]")] = 1e-4,
    atol: NonNegative = 0.0,
    cooldown: NonNegative = 0,
    accumulation_size: Annotated[Scalar, Interval("[1, inf)")] = 1,
    min_scale: NonNegative = 0.0,
):
    r"""Multiply by a scale that falls by a factor whenever the loss has not improved for some while.

    A value $f$, the mean of as many losses as are accumulated, improves on the best one $b$ where
    $f < b - \rho |b| - \alpha$; after a number of values that do not, $s \leftarrow \max(\gamma s, s_{min})$. The
    update is $s g$.

    State: `ReduceLROnPlateauState(scale, best_value, plateau_count, cooldown_count, count, avg_value)`, 24 bytes in
    all (36 where floats are float64). Differs from Optax: $|b|$ stands where Optax has $b$, which takes a negative loss
    that is no better than the best one, or a little worse, for an improvement; the numbers are float32 at least.

    Args:
      factor: $\gamma$, in (0, 1).
      patience: how many values may not improve, in [1, inf).
      rtol: $\rho$, in [0, 1].
      atol: $\alpha$, in [0, inf); one of the two tolerances is above 0.
      cooldown: for how many values after a fall none is counted, in [0, inf).
      accumulation_size: how many losses make a value, in [1, inf).
      min_scale: $s_{min}$, in [0, inf).

    Raises:
      ValueError: if both tolerances are 0, or `update` is called without `value`, the loss.

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
        seen = state._replace(count=count, avg_value=mean)
        full = count.astype(float) >= accumulation_size
        state = jax.tree.map(lambda new, old: jnp.where(full, new, old), judged(seen), seen)
        return scaled(updates, state.scale), state

    def judged(state):
        best, cooling = state.best_value, state.cooldown_count > 0
        improved = state.avg_value < jnp.where(jnp.isinf(best), best, best - rtol * jnp.abs(best) - atol)
        waited = jnp.where(improved, 0, optax.safe_increment(state.plateau_count))
        falls = (waited.astype(float) >= patience) & ~cooling
        fallen = jnp.maximum(state.scale * factor, min_scale)
        rest = jnp.where(falls, jnp.asarray(cooldown, jnp.int32), jnp.maximum(state.cooldown_count - 1, 0))
        return ReduceLROnPlateauState(
            scale=jnp.where(falls, fallen, state.scale).astype(state.scale.dtype),
            best_value=jnp.where(improved, state.avg_value, best),
            plateau_count=jnp.where(falls | cooling, 0, waited),
            cooldown_count=rest,
            count=jnp.zeros_like(state.count),
            avg_value=jnp.zeros_like(state.avg_value),
        )

    return init, update
