"""Lookahead: slow parameters that follow fast ones every few steps."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree, xla
from gdjax.value import Interval, Scalar, transform
from gdjax.value.diagnose import require_params


class SlowState(NamedTuple):
    """State of `lookahead` with the slow parameters in it."""

    fast_state: Any
    steps_since_sync: jax.Array
    """The number of steps since the last synchronization, int32 of shape ()."""
    slow: Any
    """$s$, the slow parameters, at least float32."""


@transform(any_dtype=False, shardable=True)
def lookahead(
    fast_optimizer: optax.GradientTransformation,
    sync_period: Annotated[Scalar, Interval("[1, inf)")],
    slow_step_size: Annotated[Scalar, Interval("[0, 1]")],
    reset_state: bool = False,
):
    r"""Take $k$ fast steps, then move slow parameters towards the fast ones and restart from there.

    $s \leftarrow s + \alpha (p - s)$, $p \leftarrow s$.
    The state holds the slow parameters $s$, and `eval_params` reads them. If the parameters are Optax's
    `LookaheadParams(fast, slow)`, that tree holds $s$, as in Optax.

    State: `SlowState(fast_state, steps_since_sync, slow)`, 4 bytes per parameter (8 in float64) plus the
    inner state. With `LookaheadParams` it is `LookaheadState(fast_state, steps_since_sync)`.
    Source: Zhang et al. 2019, algorithm 1 (https://arxiv.org/abs/1907.08610), with $k = 5$ and $\alpha = 0.5$.

    Args:
      fast_optimizer: the transform that updates the fast parameters.
      sync_period: $k$, in [1, inf).
      slow_step_size: $\alpha$, in [0, 1].
      reset_state: whether to reset the fast optimizer's state at each synchronization.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import gdjax as gd
    >>> tx = gd.lookahead(gd.sgd(1.0), sync_period=2, slow_step_size=0.5)
    >>> params, state = 0.0, tx.init(0.0)
    >>> for gradient in (-1.0, -1.0):
    ...     updates, state = tx.update(gradient, state, params)
    ...     params = gd.apply_updates(params, updates)
    ...     print(params)
    1.0
    1.0
    """

    def init(params):
        count = jnp.zeros((), jnp.int32)
        if isinstance(params, optax.LookaheadParams):
            return optax.LookaheadState(fast_optimizer.init(params.fast), count)
        return SlowState(fast_optimizer.init(params), count, tree.copies(params))

    def update(updates, state, params: Any = None, **extra_args):
        require_params("lookahead", params)
        paired = isinstance(state, optax.LookaheadState)
        fast, slow = (params.fast, params.slow) if paired else (params, state.slow)
        new_updates, fast_state = fast_optimizer.update(updates, state.fast_state, fast, **extra_args)
        count = state.steps_since_sync + 1
        sync = count.astype(float) >= sync_period
        p, s, u = tree.widen(fast), tree.widen(slow), tree.widen(new_updates)
        new_slow = jax.tree.map(
            lambda p, s, u: jnp.where(sync, s + tree.scalar(slow_step_size, s) * (p + u - s), s), p, s, u
        )
        recomputed = fast_optimizer.again(updates, xla.mark(fast_state, sync.astype(float)), fast)  # pyright: ignore
        u = u if recomputed is None else tree.widen(recomputed)
        steps = jax.tree.map(lambda p, s, u: jnp.where(sync, s - p, u), p, new_slow, u)
        steps = tree.cast_like(steps, fast if paired else updates)
        if reset_state:
            fast_state = jax.tree.map(lambda new, old: jnp.where(sync, new, old), fast_optimizer.init(fast), fast_state)
        count = jnp.where(sync, 0, count)
        if paired:
            slow_steps = tree.cast_like(jax.tree.map(jnp.subtract, new_slow, s), slow)
            return optax.LookaheadParams(steps, slow_steps), optax.LookaheadState(fast_state, count)
        return steps, SlowState(fast_state, count, tree.cast_like(new_slow, slow))

    return init, update
