"""Steps over the root of past squares."""

from typing import Any

from gdjax.compose import chain
from gdjax.transforms import (
    add_decayed_weights,
    identity,
    scale_by_adadelta,
    scale_by_learning_rate,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
    trace,
)
from gdjax.value import Decay, LearningRate, Momentum, NonNegative, Positive, WeightDecay, transform


@transform
def rmsprop(
    learning_rate: LearningRate,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Momentum | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
):
    r"""RMSProp: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_rms`, or its trace.

    State: 4 bytes a parameter, 4 more with momentum, 4 more if centered.
    Source: Tieleman and Hinton 2012, lecture 6e, slide 29
    (https://www.cs.toronto.edu/~hinton/coursera/lecture6/lec6.pdf); centered: Graves 2013, equations 38-45
    (https://arxiv.org/abs/1308.0850).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      decay, eps, initial_scale, eps_in_sqrt: as in `scale_by_rms`.
      centered: whether to divide by the deviation from the mean, not by the root of the mean square.
      momentum: the decay of the trace of the steps, in [0, 1]; `None` for none.
      nesterov: as in `trace`.
      bias_correction: as in `scale_by_rms`.

    >>> import gdjax as gd
    >>> tx = gd.rmsprop(0.1, decay=0.75, eps=0.0)
    >>> print(f"{tx.update(6.0, tx.init(5.0))[0]:.4f}")
    -0.2000
    """
    by_size = scale_by_stddev if centered else scale_by_rms
    return chain(
        by_size(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )


@transform
def adagrad(
    learning_rate: LearningRate,
    initial_accumulator_value: NonNegative = 0.1,
    eps: NonNegative = 1e-7,
):
    r"""AdaGrad: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_rss`.

    State: 4 bytes a parameter (8 in float64). Source: Duchi et al. 2011, figure 1 (https://jmlr.org/papers/v12/duchi11a.html).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      initial_accumulator_value, eps: as in `scale_by_rss`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adagrad(0.1)).transforms]
    ['scale_by_rss', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adadelta(
    learning_rate: LearningRate | None = None,
    rho: Decay = 0.9,
    eps: Positive = 1e-6,
    weight_decay: WeightDecay = 0.0,
    weight_decay_mask: Any = None,
):
    r"""AdaDelta: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_adadelta`, of the gradient and $\lambda p$.

    State: 8 bytes a parameter (16 in float64). Source: Zeiler 2012, algorithm 1 (https://arxiv.org/abs/1212.5701).

    Args:
      learning_rate: $\eta$, a number or a schedule of it. `None`, as in Optax, leaves $u$ as it is, and so climbs.
      rho, eps: as in `scale_by_adadelta`.
      weight_decay, weight_decay_mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adadelta(1.0)).transforms]
    ['add_decayed_weights', 'scale_by_adadelta', 'scale_by_learning_rate']
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )
