"""Steps as long as the weights allow: LAMB, LARS, Fromage, Adafactor, CAME."""

from typing import Any

import jax.numpy as jnp

from gdjax.compose import chain, masked
from gdjax.transforms import (
    add_decayed_weights,
    clip_by_block_rms,
    ema,
    scale,
    scale_by_adam,
    scale_by_came,
    scale_by_factored_rms,
    scale_by_learning_rate,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
    trace,
)
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    Momentum,
    NonNegative,
    Positive,
    Scalar,
    WeightDecay,
    transform,
)


@transform
def lamb(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: WeightDecay = 0.0,
    mask: Any = None,
    axis_name: Any = None,
):
    r"""LAMB: $p \leftarrow p - \eta\, r (u + \lambda p)$ with $u$ of `scale_by_adam`, $r$ of `scale_by_trust_ratio`.

    State: 8 bytes a parameter (16 in float64). Source: You et al. 2019, algorithm 2 (https://arxiv.org/abs/1904.00962).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root: as in `scale_by_adam`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.
      axis_name: as in `scale_by_trust_ratio`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.lamb(0.1)).transforms]
    ['scale_by_adam', 'add_decayed_weights', 'scale_by_trust_ratio', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(axis_name=axis_name),
        scale_by_learning_rate(learning_rate),
    )


@transform
def lars(
    learning_rate: LearningRate,
    weight_decay: WeightDecay = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: NonNegative = 0.001,
    eps: NonNegative = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Momentum = 0.9,
    nesterov: bool = False,
    axis_name: Any = None,
):
    r"""LARS: the trace of $\eta\, r (g + \lambda p)$ with $r$ of `scale_by_trust_ratio`.

    State: 4 bytes a parameter (8 in float64). Source: You et al. 2017, algorithm 1 (https://arxiv.org/abs/1708.03888).
    Differs from the paper, as Optax does: the ratio is over $\lVert g + \lambda p \rVert$, not over
    $\lVert g \rVert + \lambda \lVert p \rVert$.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      weight_decay, weight_decay_mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.
      trust_coefficient, eps: as in `scale_by_trust_ratio`.
      trust_ratio_mask: which leaves are scaled by it.
      momentum: the decay of `trace`, in [0, 1].
      nesterov: as in `trace`.
      axis_name: as in `scale_by_trust_ratio`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.lars(0.1)).transforms]
    ['add_decayed_weights', 'masked', 'scale_by_learning_rate', 'trace']
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(scale_by_trust_ratio(0.0, trust_coefficient, eps, axis_name), trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


@transform
def fromage(learning_rate: LearningRate, min_norm: NonNegative = 1e-6, axis_name: Any = None):
    r"""Fromage: $p \leftarrow (p - \eta\, r g) / \sqrt{1 + \eta^2}$ with $r$ of `scale_by_trust_ratio`.

    State: none, or two counts where $\eta$ is a schedule.
    Source: Bernstein et al. 2020, algorithm 1 (https://arxiv.org/abs/2002.03432).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      min_norm, axis_name: as in `scale_by_trust_ratio`.

    >>> import gdjax as gd
    >>> round(gd.expand(gd.fromage(0.75)).weight_decay, 4)
    -0.2
    """

    def shrunk(rate):
        return (1.0 + rate**2) ** -0.5

    step: Any = learning_rate
    if callable(step):
        moved, grown = (lambda count: shrunk(step(count)) * step(count)), (lambda count: shrunk(step(count)) - 1.0)
    else:
        moved, grown = shrunk(step) * step, shrunk(step) - 1.0
    ratio = scale_by_trust_ratio(min_norm, axis_name=axis_name)
    return chain(ratio, scale_by_learning_rate(moved), add_decayed_weights(grown))


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
    weight_decay_mask: Any = None,
    axis_name: Any = None,
    dim: int = 0,
):
    r"""Adafactor: factored second moments, clipped by block, scaled by the size of the weights.

    $p \leftarrow p - (m + \lambda p)$ with $m$ the mean of $\eta \max(\mathrm{RMS}(p), 10^{-3})\, u$, $u$ of
    `scale_by_factored_rms` clipped by `clip_by_block_rms`; without momentum no mean is taken.

    State: 4 bytes a row and a column of a factored matrix, 4 a parameter of other leaves, 4 more with momentum.
    Source: Shazeer and Stern 2018, algorithms 4 and 5 (https://arxiv.org/abs/1804.04235).

    Args:
      learning_rate: $\eta$, a number or a schedule of it; `None` for 1.
      min_dim_size_to_factor, decay_rate, factored: as in `scale_by_factored_rms`.
      decay_offset: `step_offset` of it.
      multiply_by_parameter_scale: whether steps are relative to the weights.
      clipping_threshold: as in `clip_by_block_rms`; `None` for no clipping.
      momentum: the decay of the mean of steps, in [0, 1); `None` for none.
      dtype_momentum: the dtype in which it is kept.
      weight_decay_rate, weight_decay_mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.
      eps, axis_name, dim: as in `scale_by_factored_rms`.

    >>> import gdjax as gd
    >>> len(gd.expand(gd.adafactor(0.1, momentum=0.9)).transforms)
    6
    """
    over = {"axis_name": axis_name, "dim": dim}
    parts = [scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps, **over)]
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


@transform
def came(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    eps: Positive = 1e-30,
    eps_res: Positive = 1e-16,
    clipping_threshold: Positive = 1.0,
    weight_decay: WeightDecay = 0.0,
    mask: Any = None,
    axis_name: Any = None,
    dim: int = 0,
):
    r"""CAME: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_came`.

    State: 4 bytes a parameter of a matrix, 8 of a vector (8 and 16 in float64).
    Source: Luo et al. 2023, algorithm 2 (https://arxiv.org/abs/2307.02047).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, b3, eps, eps_res, clipping_threshold, axis_name, dim: as in `scale_by_came`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.came(0.1)).transforms]
    ['scale_by_came', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_came(b1, b2, b3, eps, eps_res, clipping_threshold, axis_name=axis_name, dim=dim),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
