"""Adam and its nearest kin."""

from typing import Annotated, Any

from gdjax.compose import chain
from gdjax.transforms import (
    add_decayed_weights,
    scale_by_adam,
    scale_by_adamax,
    scale_by_amsgrad,
    scale_by_learning_rate,
    scale_by_radam,
)
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


@transform
def adam(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = False,
):
    r"""Adam: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_adam`.

    State: 8 bytes a parameter. Source: Kingma and Ba 2014, algorithm 1 (https://arxiv.org/abs/1412.6980).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> tx = gd.adam(0.1)
    >>> print(f"{tx.update(6.0, tx.init(5.0))[0]:.4f}")
    -0.1000
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adamw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
):
    r"""Adam with decoupled weight decay: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_adam`.

    State: 8 bytes a parameter. Source: Loshchilov and Hutter 2017, algorithm 2 (https://arxiv.org/abs/1711.05101).
    Differs from the paper, as Optax does: $\lambda$ takes the whole learning rate, not its schedule alone.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      weight_decay: $\lambda$, in [0, inf), or a schedule of it.
      mask: which leaves decay, as in `add_decayed_weights`.
      nesterov: as in `scale_by_adam`.

    >>> import gdjax as gd
    >>> tx = gd.adamw(0.1, weight_decay=0.5)
    >>> print(f"{tx.update(6.0, tx.init(2.0), 2.0)[0]:.4f}")
    -0.2000
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transform
def nadam(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = True,
):
    """NAdam: `adam` that looks ahead.

    State: 8 bytes a parameter. Source: Dozat 2016, algorithm 2 (https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ).

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov: as in `adam`.

    >>> import gdjax as gd
    >>> gd.nadam(0.1).nesterov
    True
    """
    return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


@transform
def nadamw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
):
    """NAdam with decoupled weight decay: `adamw` that looks ahead.

    State: 8 bytes a parameter. Source: Dozat 2016, algorithm 2 (https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ).

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov: as in `adamw`.

    >>> import gdjax as gd
    >>> gd.nadamw(0.1).nesterov
    True
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov)


@transform
def amsgrad(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
):
    r"""AMSGrad: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_amsgrad`.

    State: 12 bytes a parameter (24 in float64). Source: Reddi et al. 2018, algorithm 2 (https://arxiv.org/abs/1904.09237).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu: as in `scale_by_amsgrad`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.amsgrad(0.1)).transforms]
    ['scale_by_amsgrad', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adamax(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
):
    r"""AdaMax: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_adamax`.

    State: 8 bytes a parameter (16 in float64). Source: Kingma and Ba 2014, algorithm 2 (https://arxiv.org/abs/1412.6980).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adamax`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adamax(0.1)).transforms]
    ['scale_by_adamax', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adamaxw(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    weight_decay: WeightDecay = 1e-4,
    mask: Any = None,
):
    r"""AdaMax with decoupled weight decay: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_adamax`.

    State: 8 bytes a parameter (16 in float64). Source: Loshchilov and Hutter 2017, section 3 (https://arxiv.org/abs/1711.05101).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_adamax`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adamaxw(0.1)).transforms]
    ['scale_by_adamax', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transform
def radam(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: Annotated[Scalar, Interval("[4, inf)")] = 5.0,
    *,
    nesterov: bool = False,
):
    r"""RAdam: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_radam`.

    State: 8 bytes a parameter (16 in float64). Source: Liu et al. 2019, algorithm 2 (https://arxiv.org/abs/1908.03265).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, threshold, nesterov: as in `scale_by_radam`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.radam(0.1)).transforms]
    ['scale_by_radam', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
