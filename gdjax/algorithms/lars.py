"""LARS and Fromage: gradients of each leaf scaled to the norm of its weights."""

from typing import Any

from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.compose.masked import masked
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.momentum import trace
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.transforms.trust import scale_by_trust_ratio
from gdjax.tree import Mask
from gdjax.value import (
    LearningRate,
    Momentum,
    NonNegative,
    WeightDecay,
    transform,
)


@transform
def lars(
    learning_rate: LearningRate,
    weight_decay: WeightDecay = 0.0,
    weight_decay_mask: Mask = True,
    trust_coefficient: NonNegative = 0.001,
    eps: NonNegative = 0.0,
    trust_ratio_mask: Mask = True,
    momentum: Momentum = 0.9,
    nesterov: bool = False,
    axis_name: AxisName = None,
):
    r"""LARS: momentum over $\eta\, r (g + \lambda p)$ with $r$ from `scale_by_trust_ratio`.

    State: 4 bytes per parameter (8 in float64). Source: You et al. 2017, algorithm 1 (https://arxiv.org/abs/1708.03888).
    Differs from the paper, as Optax does: the ratio divides by $\lVert g + \lambda p \rVert$, not by
    $\lVert g \rVert + \lambda \lVert p \rVert$.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      weight_decay, weight_decay_mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.
      trust_coefficient, eps: as in `scale_by_trust_ratio`.
      trust_ratio_mask: which leaves are scaled by the ratio.
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
def fromage(learning_rate: LearningRate, min_norm: NonNegative = 1e-6, axis_name: AxisName = None):
    r"""Fromage: $p \leftarrow (p - \eta\, r g) / \sqrt{1 + \eta^2}$ with $r$ from `scale_by_trust_ratio`.

    State: none, or two counts if $\eta$ is a schedule.
    Source: Bernstein et al. 2020, algorithm 1 (https://arxiv.org/abs/2002.03432).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      min_norm, axis_name: as in `scale_by_trust_ratio`.

    >>> import gdjax as gd
    >>> round(gd.expand(gd.fromage(0.75)).weight_decay, 4)
    -0.2
    """

    def shrink(rate):
        return (1.0 + rate**2) ** -0.5

    rate: Any = learning_rate
    if callable(rate):
        step_size, decay = (
            (lambda count: shrink(rate(count)) * rate(count)),
            (lambda count: shrink(rate(count)) - 1.0),
        )
    else:
        step_size, decay = shrink(rate) * rate, shrink(rate) - 1.0
    ratio = scale_by_trust_ratio(min_norm, axis_name=axis_name)
    return chain(ratio, scale_by_learning_rate(step_size), add_decayed_weights(decay))
