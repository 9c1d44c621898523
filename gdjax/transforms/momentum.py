"""Momentum: sums and averages of past gradients."""

import jax
import jax.numpy as jnp
import optax

from gdjax import tree
from gdjax.transforms.moments import bias_corrected, means
from gdjax.value import AccumulatorDType, Decay, Momentum, transform


@transform(elementwise=True, upcast=True)
def trace(
    decay: Momentum,
    nesterov: bool = False,
    accumulator_dtype: AccumulatorDType = None,
):
    r"""Sum past gradients with decay: heavy-ball or Nesterov momentum.

    $t \leftarrow g + \mu t$; the update is the new $t$, or with Nesterov $g + \mu t$.

    State: `TraceState(trace)`, 4 bytes per parameter (8 in float64), or those of `accumulator_dtype`.
    Source: Sutskever et al. 2013, equations 1-4 (http://proceedings.mlr.press/v28/sutskever13.html). Differs from the
    paper: the learning rate multiplies the sum, not the gradients summed.

    Args:
      decay: $\mu$, in [0, 1].
      nesterov: whether to apply the momentum once more to the update.
      accumulator_dtype: the dtype of the state; by default that of the parameters, at least float32.

    >>> import gdjax as gd
    >>> tx = gd.trace(0.9)
    >>> state = tx.init(0.0)
    >>> for _ in range(3):
    ...     update, state = tx.update(1.0, state)
    >>> print(update)
    2.71
    """

    def init(params):
        return optax.TraceState(trace=tree.accumulators(params, 0, accumulator_dtype))

    def update(g, state, params=None):
        t = jax.tree.map(lambda g, t: g + decay * t, g, state.trace)
        update = jax.tree.map(lambda g, t: g + decay * t, g, t) if nesterov else t
        return update, optax.TraceState(trace=t)

    return init, update


@transform(elementwise=True, upcast=True)
def ema(decay: Decay, debias: bool = True, accumulator_dtype: AccumulatorDType = None):
    r"""Average past gradients exponentially: $m \leftarrow \beta m + (1 - \beta) g$; the update is $m$.

    State: `EmaState(count, ema)`, 4 bytes per parameter (8 in float64), or those of `accumulator_dtype`.

    Args:
      decay: $\beta$, in [0, 1).
      debias: whether the update is $m / (1 - \beta^t)$ instead of $m$.
      accumulator_dtype: the dtype of the state; by default that of the parameters, at least float32.

    >>> import gdjax as gd
    >>> tx = gd.ema(0.5)
    >>> update, state = tx.update(1.0, tx.init(0.0))
    >>> print(update, state.ema)
    1.0 0.5
    """

    def init(params):
        return optax.EmaState(count=jnp.zeros((), jnp.int32), ema=tree.accumulators(params, 0, accumulator_dtype))

    def update(g, state, params=None):
        count, m = optax.safe_increment(state.count), means(g, state.ema, decay)
        m_hat = bias_corrected(m, decay, count) if debias else m
        return m_hat, optax.EmaState(count, m)

    return init, update
