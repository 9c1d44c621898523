"""LAMB: Adam with the step of each leaf scaled to the norm of its weights."""

from gdjax.algorithms.adam import scale_by_adam
from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.transforms.trust import scale_by_trust_ratio
from gdjax.tree import Mask
from gdjax.value import (
    Decay,
    LearningRate,
    NonNegative,
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
    mask: Mask | None = None,
    axis_name: AxisName = None,
):
    r"""LAMB: $p \leftarrow p - \eta\, r (u + \lambda p)$ $u$ from `scale_by_adam`, $r$ from `scale_by_trust_ratio`.

    State: 8 bytes per parameter (16 in float64). Source: You et al. 2019, algorithm 2 (https://arxiv.org/abs/1904.00962).

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
