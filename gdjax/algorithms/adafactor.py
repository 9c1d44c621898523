"""Adafactor: Adam whose second moment of a matrix is factored into rows and columns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.transforms.clipping import clip_by_block_rms
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.factoring import Factoring
from gdjax.transforms.moments import clip_to_squarable
from gdjax.transforms.momentum import ema
from gdjax.transforms.scaling import scale, scale_by_learning_rate
from gdjax.transforms.trust import scale_by_param_block_rms
from gdjax.tree import Mask
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    Positive,
    Scalar,
    WeightDecay,
    transform,
)


def power_decay(step: ArrayLike, exponent: float | jax.Array) -> jax.Array:
    """Return Adafactor's decay, $1 - (t + 1)^{-e}$: 0 at the first step and before it."""
    return 1.0 - (jnp.maximum(step, 0.0) + 1.0) ** -exponent


@transform(upcast=True)
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: NonNegative = 0.8,
    step_offset: Scalar = 0.0,
    min_dim_size_to_factor: int = 128,
    epsilon: Positive = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] = power_decay,
    axis_name: AxisName = None,
    dim: int = 0,
):
    r"""Divide the gradient by the root of a mean of squares, stored as row and column means.

    Let $s = |g|^2 + \epsilon$ and $\beta_t = 1 - (t - t_0 + 1)^{-e}$. A leaf is factored if its two largest axes are
    long enough: $R \leftarrow \beta_t R + (1 - \beta_t)\, \mathrm{mean}_{col}\, s$, $C$ likewise over rows, and the
    update is $g / \sqrt{R C / \mathrm{mean}\, R}$. For any other leaf $V \leftarrow \beta_t V + (1 - \beta_t) s$, and
    the update is $g / \sqrt V$.

    State: `FactoredState(count, v_row, v_col, v)`, 4 bytes per row and per column of a factored leaf, 4 per parameter
    of others (8 in float64). Source: Shazeer and Stern 2018, algorithm 4 (https://arxiv.org/abs/1804.04235).
    Differs from Optax: steps before the offset use the decay of the first step, where Optax gives NaN. Over an axis,
    the factor along the sharded dimension is sharded like the leaf, and the other factor is replicated.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      factored: whether to factor any leaf.
      decay_rate: $e$, in [0, inf).
      step_offset: $t_0$, the step that counts as the first; for fine-tuning, the last step of pretraining.
      min_dim_size_to_factor: the least length of the shorter of the two largest axes.
      epsilon: $\epsilon$, in (0, inf].
      decay_rate_fn: $\beta_t$, a function of the step $t - t_0$ and of $e$.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.
      dim: the dimension along which leaves are sharded; use `by_path` if it differs between leaves.

    Raises:
      ValueError: if the axis is not bound, also at `init`, or if a sharded leaf has no dimension `dim`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_factored_rms(min_dim_size_to_factor=2)
    >>> g = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(4))
    [[1. 1.]
     [1. 1.]]
    """
    factoring = Factoring(min_dim_size_to_factor if factored else None, axis_name, dim)

    def init(params):
        return optax.FactoredState(jnp.zeros((), jnp.int32), *factoring.zeros(params))

    def update(g, state, params=None):
        decay = decay_rate_fn(state.count.astype(float) - step_offset, decay_rate)
        moments = factoring.means(g, (state.v_row, state.v_col, state.v), decay, epsilon)
        new = optax.FactoredState(optax.safe_increment(state.count), *moments)
        return again(g, new), new

    def again(g, state, params=None):
        _, *moments = state
        return factoring.divide_by_root(clip_to_squarable(g), *moments)

    return init, update, again


@transform
def adafactor(
    learning_rate: LearningRate | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: NonNegative = 0.8,
    decay_offset: Scalar = 0.0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Positive | None = 1.0,
    momentum: Decay | None = None,
    dtype_momentum: AccumulatorDType = jnp.float32,
    weight_decay_rate: WeightDecay | None = None,
    eps: Positive = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask | None = None,
    axis_name: AxisName = None,
    dim: int = 0,
):
    r"""Adafactor: factored second moments, clipped by block, scaled by the size of the weights.

    $p \leftarrow p - (m + \lambda p)$, where $m$ is the moving average of $\eta \max(\mathrm{RMS}(p), 10^{-3})\, u$,
    and $u$ comes from `scale_by_factored_rms` and `clip_by_block_rms`. Without momentum, $m$ is that term itself.

    State: 4 bytes per row and per column of a factored matrix, 4 per parameter of other leaves, 4 more with momentum.
    Source: Shazeer and Stern 2018, algorithms 4 and 5 (https://arxiv.org/abs/1804.04235).

    Args:
      learning_rate: $\eta$, a number or a schedule of it; `None` for 1.
      min_dim_size_to_factor, decay_rate, factored: as in `scale_by_factored_rms`.
      decay_offset: `step_offset` of `scale_by_factored_rms`.
      multiply_by_parameter_scale: whether steps are proportional to the size of the weights.
      clipping_threshold: as in `clip_by_block_rms`; `None` for no clipping.
      momentum: the decay of the moving average of steps, in [0, 1); `None` for no momentum.
      dtype_momentum: the dtype of that average.
      weight_decay_rate, weight_decay_mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.
      eps, axis_name, dim: as in `scale_by_factored_rms`.

    >>> import gdjax as gd
    >>> len(gd.expand(gd.adafactor(0.1, momentum=0.9)).transforms)
    6
    """
    sharded = {"axis_name": axis_name, "dim": dim}
    parts = [scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps, **sharded)]
    if clipping_threshold is not None:
        parts.append(clip_by_block_rms(clipping_threshold, axis_name))
    if learning_rate is not None:
        parts.append(scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        parts.append(scale_by_param_block_rms(axis_name=axis_name))
    if momentum is not None:
        parts.append(ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None:
        parts.append(add_decayed_weights(weight_decay_rate, weight_decay_mask))
    return chain(*parts, scale(-1.0))
