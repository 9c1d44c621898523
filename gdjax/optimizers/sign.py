"""Plain descent, and descent by signs."""

from typing import Annotated, Any

from gdjax.compose import chain
from gdjax.transforms import (
    add_decayed_weights,
    ema,
    identity,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_sign,
    trace,
)
from gdjax.value import AccumulatorDType, Decay, Interval, LearningRate, Momentum, Scalar, WeightDecay, transform


@transform
def sgd(
    learning_rate: LearningRate,
    momentum: Momentum | None = None,
    nesterov: bool = False,
    accumulator_dtype: AccumulatorDType = None,
):
    r"""Step down the gradient, with momentum or without: $p \leftarrow p - \eta\, t$, $t$ of `trace`, else $g$.

    State: 4 bytes a parameter with momentum, none without.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      momentum: the decay of `trace`, in [0, 1]; `None` for none.
      nesterov, accumulator_dtype: as in `trace`.

    >>> import gdjax as gd
    >>> tx = gd.sgd(0.1)
    >>> params = 5.0
    >>> updates, state = tx.update(2 * (params - 2), tx.init(params), params)
    >>> print(gd.apply_updates(params, updates))
    4.4
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )


@transform
def sign_sgd(
    learning_rate: LearningRate,
):
    r"""Descend by signs: $p \leftarrow p - \eta\, \mathrm{sign}(g)$.

    State: none. Source: Bernstein et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.04434).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.sign_sgd(0.1)).transforms]
    ['scale_by_sign', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )


@transform
def signum(
    learning_rate: LearningRate,
    beta: Decay = 0.9,
    accumulator_dtype: AccumulatorDType = None,
):
    r"""Descend by the signs of a mean of gradients: $p \leftarrow p - \eta\, \mathrm{sign}(m)$.

    State: 4 bytes a parameter (8 in float64). Source: Bernstein et al. 2018, algorithm 2 (https://arxiv.org/abs/1802.04434).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      beta, accumulator_dtype: the decay of `ema`, in [0, 1), and the dtype of its state.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.signum(0.1)).transforms]
    ['ema', 'scale_by_sign', 'scale_by_learning_rate']
    """
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )


@transform
def lion(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Annotated[Scalar, Interval("(0, 1)")] = 0.99,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 1e-3,
    mask: Any = None,
):
    r"""Lion: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_lion`.

    State: 4 bytes a parameter (8 in float64). Source: Chen et al. 2023, algorithm 2 (https://arxiv.org/abs/2302.06675).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, mu_dtype: as in `scale_by_lion`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.lion(0.1)).transforms]
    ['scale_by_lion', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
