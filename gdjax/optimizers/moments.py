"""Adam with other moments."""

from collections.abc import Callable
from typing import Annotated, Any

import jax

from gdjax.compose import chain
from gdjax.transforms import (
    add_decayed_weights,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_belief,
    scale_by_laprop,
    scale_by_learning_rate,
    scale_by_novograd,
    scale_by_yogi,
)
from gdjax.transforms.normalized_first import fourth_root
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    NonNegative,
    ScalarOrSchedule,
    WeightDecay,
    transform,
)


@transform
def adabelief(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    nesterov: bool = False,
):
    r"""AdaBelief: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_belief`.

    State: 8 bytes a parameter (16 in float64). Source: Zhuang et al. 2020, algorithm 2 (https://arxiv.org/abs/2010.07468).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, nesterov: as in `scale_by_belief`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adabelief(0.1)).transforms]
    ['scale_by_belief', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@transform
def yogi(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
):
    r"""Yogi: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_yogi`.

    State: 8 bytes a parameter (16 in float64). Source: Zaheer et al. 2018, algorithm 2
    (https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps: as in `scale_by_yogi`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.yogi(0.1)).transforms]
    ['scale_by_yogi', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_yogi(b1, b2, eps),
        scale_by_learning_rate(learning_rate),
    )


@transform
def novograd(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: WeightDecay = 0.0,
    axis_name: Any = None,
):
    r"""NovoGrad: $p \leftarrow p - \eta\, m$ with $m$ of `scale_by_novograd`.

    State: 4 bytes a parameter (8 in float64) and 4 a leaf. Source: Ginsburg et al. 2019, algorithm 1 (https://arxiv.org/abs/1905.11286).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, weight_decay, axis_name: as in `scale_by_novograd`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.novograd(0.1)).transforms]
    ['scale_by_novograd', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay, axis_name=axis_name),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adan(
    learning_rate: LearningRate,
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.0,
    mask: Any = None,
):
    r"""Adan: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_adan`.

    State: 16 bytes a parameter (32 in float64). Source: Xie et al. 2022, algorithm 1 (https://arxiv.org/abs/2208.06677).
    Differs from the paper: the decay is that of AdamW.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, b3, eps, eps_root: as in `scale_by_adan`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adan(0.1)).transforms]
    ['scale_by_adan', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transform
def ademamix(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Annotated[ScalarOrSchedule, Interval("[0, 1)")] = 0.9999,
    alpha: Annotated[ScalarOrSchedule, Interval("[0, inf)")] = 5.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 0.0,
    mask: Any = None,
):
    r"""AdEMAMix: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_ademamix`.

    State: 12 bytes a parameter (24 in float64). Source: Pagliardini et al. 2024, algorithm 1 (https://arxiv.org/abs/2409.03137).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, b3, alpha, eps, eps_root, mu_dtype: as in `scale_by_ademamix`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.ademamix(0.1)).transforms]
    ['scale_by_ademamix', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transform
def laprop(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: AccumulatorDType = None,
    weight_decay: WeightDecay = 0.0,
    mask: Any = None,
):
    r"""LaProp: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_laprop`.

    State: 8 bytes a parameter (16 in float64). Source: Ziyin et al. 2020, algorithm 1 (https://arxiv.org/abs/2002.04839).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_laprop`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.laprop(0.1)).transforms]
    ['scale_by_laprop', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_laprop(b1, b2, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transform
def adopt(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: AccumulatorDType = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], jax.Array] = fourth_root,
):
    r"""ADOPT: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_adopt`.

    State: 8 bytes a parameter (16 in float64). Source: Taniguchi et al. 2024, algorithm 2 (https://arxiv.org/abs/2411.02853).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, eps, mu_dtype, nesterov, use_clipping, clip_value_fn: as in `scale_by_adopt`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.adopt(0.1)).transforms]
    ['scale_by_adopt', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_adopt(
            b1, b2, eps, mu_dtype, nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn
        ),
        scale_by_learning_rate(learning_rate),
    )
