"""Exponential moving average of the parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.transforms.moments import bias_corrected, decay_below_one, mean, means
from gdjax.value import AccumulatorDType, Decay, transform
from gdjax.value.diagnose import require_params


class ParamsEmaState(NamedTuple):
    """State of `params_ema`; `ema` does not hold the newest parameters yet."""

    inner_state: Any
    count: Any
    """The number of steps, int32 of shape ()."""
    decay: jax.Array
    """$d$, a float of shape (), with which `eval_params` adds the newest parameters."""
    ema: Any
    """$e$, shaped like the parameters, 0 before the second step."""


@transform(any_dtype=False, shardable=True)
def params_ema(inner: optax.GradientTransformation, decay: Decay = 0.999, accumulator_dtype: AccumulatorDType = None):
    r"""Average the parameters over the steps: $e \leftarrow d e + (1 - d) p$; `eval_params` reads $e / (1 - d^t)$.

    The average is over the parameters after each step, without the initial ones. The next call of `update` adds them,
    and `eval_params` adds the newest, so that no update is computed twice.

    State: `ParamsEmaState(inner_state, count, decay, ema)`, 4 bytes per parameter (8 in float64), or those of
    `accumulator_dtype`, plus the inner state.
    Source: Polyak and Juditsky 1992 (https://doi.org/10.1137/0330046), exponential as in Kingma and Ba 2014, section
    7.2 (https://arxiv.org/abs/1412.6980).

    Args:
      inner: the transform that updates the parameters.
      decay: $d$, in [0, 1).
      accumulator_dtype: the dtype of the average; by default that of the parameters, at least float32.

    Raises:
      ValueError: if `update` is called without `params`.

    >>> import gdjax as gd
    >>> tx = gd.params_ema(gd.sgd(1.0), decay=0.5)
    >>> params, state = 0.0, tx.init(0.0)
    >>> for gradient in (-3.0, -3.0):
    ...     updates, state = tx.update(gradient, state, params)
    ...     params = gd.apply_updates(params, updates)
    >>> print(params, gd.eval_params(tx, state, params))
    6.0 5.0
    """

    def init(params):
        return ParamsEmaState(
            inner_state=inner.init(params),
            count=jnp.zeros((), jnp.int32),
            decay=tree.fresh(decay_below_one(decay), float),
            ema=tree.accumulators(params, 0, accumulator_dtype),
        )

    def update(updates, state, params=None, **extra_args):
        require_params("params_ema", params)
        new_updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        p = jax.tree.map(lambda p: jnp.where(state.count == 0, 0, p), tree.widen(params))
        ema = tree.cast_like(means(p, tree.widen(state.ema), decay), state.ema)
        count, d = optax.safe_increment(state.count), tree.fresh(decay_below_one(decay), float)
        return new_updates, ParamsEmaState(inner_state, count, d, ema)

    return init, update


def read_ema(p, ema, state):
    """Return the average with the newest parameters added; before the first step, the parameters themselves."""
    return bias_corrected(mean(p, ema, state.decay), state.decay, jnp.maximum(state.count, 1))
