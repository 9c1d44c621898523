"""Optimizers whose learning rate is the distance that they have gone over the gradients that they have met."""

from typing import Any, Literal

from gdjax.compose import chain
from gdjax.transforms import add_decayed_weights, identity, scale_by_dog, scale_by_dowg, scale_by_learning_rate
from gdjax.value import LearningRate, NonNegative, Positive, WeightDecay, transform


@transform
def dog(
    learning_rate: LearningRate = 1.0,
    init_step: tuple[Literal["distance", "learning_rate", "heuristic"], Positive] = ("heuristic", 1e-6),
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay | None = None,
    mask: Any = None,
    axis_name: Any = None,
):
    r"""DoG: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_dog`, of the gradient and $\lambda p$.

    State: a copy of the parameters and 9 bytes. Source: Ivgi et al. 2023, equation 1 (https://arxiv.org/abs/2302.12022);
    they take a mean of the parameters over the steps as the result. In bfloat16 the default first step may be rounded
    away, and then no way is ever gone: take one of `("heuristic", 0.01)`.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      init_step, eps, axis_name: as in `scale_by_dog`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`; `None` for no decay.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.dog(weight_decay=0.1)).transforms]
    ['add_decayed_weights', 'scale_by_dog', 'scale_by_learning_rate']
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dog(init_step, eps, axis_name),
        scale_by_learning_rate(learning_rate),
    )


@transform
def dowg(
    learning_rate: LearningRate = 1.0,
    init_estim_sq_dist: Positive | None = None,
    eps: NonNegative = 1e-4,
    weight_decay: WeightDecay | None = None,
    mask: Any = None,
    axis_name: Any = None,
):
    r"""DoWG: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_dowg`, of the gradient and $\lambda p$.

    State: a copy of the parameters and 8 bytes. Source: Khaled et al. 2023, algorithm 1 (https://arxiv.org/abs/2305.16284).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      init_estim_sq_dist, eps, axis_name: as in `scale_by_dowg`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`; `None` for no decay.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.dowg()).transforms]
    ['identity', 'scale_by_dowg', 'scale_by_learning_rate']
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps, axis_name),
        scale_by_learning_rate(learning_rate),
    )
