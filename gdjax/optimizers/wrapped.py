"""Optimizers around others: schedule-free, MARS, cautious."""

from typing import Annotated, Any

import jax.numpy as jnp

from gdjax.compose import chain
from gdjax.optimizers.sign import sgd
from gdjax.schedules import warmup_constant_schedule
from gdjax.transforms import add_decayed_weights, scale_by_adam, scale_by_learning_rate, scale_by_rms
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    NonNegative,
    Positive,
    Scalar,
    WeightDecay,
    transform,
)
from gdjax.wrappers import cautious, mars, schedule_free


@transform
def schedule_free_sgd(
    learning_rate: LearningRate = 1.0,
    warmup_steps: Annotated[Scalar, Interval("[0, inf)")] | None = None,
    b1: Annotated[Scalar, Interval("(0, 1]")] = 0.9,
    weight_decay: WeightDecay | None = None,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: AccumulatorDType = None,
):
    r"""`sgd` within `schedule_free`.

    State: 4 bytes a parameter (8 in float64), or those of `state_dtype`.
    Source: Defazio et al. 2024, algorithm 1 (https://arxiv.org/abs/2405.15682).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      warmup_steps: in how many steps it rises to $\eta$, in [0, inf); `None` for none.
      b1, weight_lr_power, state_dtype: as in `schedule_free`.
      weight_decay: $\lambda$, in [0, inf), or a schedule of it; `None` for none.

    >>> import gdjax as gd
    >>> gd.expand(gd.schedule_free_sgd(0.1)).factory.__name__
    'schedule_free'
    """
    rate = _warmed(learning_rate, warmup_steps)
    base = sgd(rate) if weight_decay is None else chain(add_decayed_weights(weight_decay), sgd(rate))
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


@transform
def schedule_free_adamw(
    learning_rate: LearningRate = 0.0025,
    warmup_steps: Annotated[Scalar, Interval("[0, inf)")] | None = None,
    b1: Annotated[Scalar, Interval("(0, 1]")] = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.0,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: AccumulatorDType = None,
):
    r"""AdamW without momentum within `schedule_free`, which is its momentum.

    State: 8 bytes a parameter (16 in float64), half of it those of `state_dtype` where this is given.
    Source: Defazio et al. 2024, algorithm 1 (https://arxiv.org/abs/2405.15682).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      warmup_steps: in how many steps it rises to $\eta$, in [0, inf); `None` for none.
      b1, weight_lr_power, state_dtype: as in `schedule_free`.
      b2: the decay of the mean of squares, in [0, 1).
      eps: added to its root, in [0, inf).
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.schedule_free_adamw()).base_optimizer.transforms]
    ['scale_by_rms', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    rate = _warmed(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def _warmed(learning_rate: Any, warmup_steps: Any) -> Any:
    if warmup_steps is None:
        return learning_rate
    if callable(learning_rate):
        warm = warmup_constant_schedule(0.0, 1.0, warmup_steps)
        return lambda count: warm(count) * jnp.asarray(learning_rate(count))
    return warmup_constant_schedule(0.0, learning_rate, warmup_steps)


@transform
def mars_adamw(
    learning_rate: LearningRate,
    b1: Decay = 0.95,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    gamma: NonNegative = 0.025,
    max_norm: Positive = 1.0,
    weight_decay: WeightDecay = 0.0,
    mask: Any = None,
    axis_name: Any = None,
):
    r"""MARS-AdamW: `adamw` of the gradients that `mars` makes.

    State: 12 bytes a parameter (24 in float64).
    Source: Yuan et al. 2024, algorithm 2 (https://arxiv.org/abs/2411.10438).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adam`.
      gamma, max_norm, axis_name: as in `mars`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.mars_adamw(0.1)).transforms]
    ['mars', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        mars(scale_by_adam(b1, b2, eps), b1, gamma, max_norm, axis_name),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transform
def cautious_adamw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 1e-4,
    mask: Any = None,
    axis_name: Any = None,
):
    r"""C-AdamW: `adamw` whose step, decay apart, is `cautious`.

    State: 8 bytes a parameter (16 in float64). Source: Liang et al. 2024, algorithm 1 (https://arxiv.org/abs/2411.16085).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adam`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.
      axis_name: as in `cautious`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.cautious_adamw(0.1)).transforms]
    ['cautious', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        cautious(scale_by_adam(b1, b2, eps), axis_name),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
