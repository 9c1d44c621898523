"""A matrix method for hidden matrices, AdamW for all else."""

from typing import Annotated, Any

import optax
from jax.typing import DTypeLike

from gdjax.compose import chain, hidden_matrices
from gdjax.linalg import JORDAN
from gdjax.matrices import ScaleOrFunction, jordan_scale
from gdjax.optimizers.adam import adamw
from gdjax.transforms import (
    add_decayed_weights,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_muon,
    scale_by_normuon,
    scale_by_psgd_kron,
    scale_by_shampoo,
    scale_by_soap,
)
from gdjax.value import (
    AccumulatorDType,
    Decay,
    Interval,
    LearningRate,
    Momentum,
    NonNegative,
    Positive,
    Scalar,
    ScalarOrSchedule,
    WeightDecay,
    transform,
)


@transform
def muon(
    learning_rate: LearningRate,
    adam_learning_rate: LearningRate | None = None,
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: AccumulatorDType = None,
    nesterov: bool = True,
    scale: ScaleOrFunction = jordan_scale(),  # noqa: B008  (a value)
    products: DTypeLike | None = None,
    which: str | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Muon: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_muon` for hidden matrices, else AdamW.

    State: 4 bytes a parameter of hidden matrices, 8 of all else (8 and 16 in float64).
    Source: Jordan 2024 (https://kellerjordan.github.io/posts/muon). Differs from Optax: embeddings and heads are
    AdamW's though they are matrices, stacked layers are Muon's though they are not (`hidden_matrices`).

    Args:
      learning_rate: $\eta$ of hidden matrices, a number or a schedule of it.
      adam_learning_rate: that of all else; by default the same, which fits `moonlight_scale()`.
      ns_coeffs, beta, mu_dtype, nesterov, scale, products, views, axis_name, dim: as in `scale_by_muon`.
      weight_decay: $\lambda$ of both, in [0, inf), or a schedule of it.
      which: a pattern of the paths of hidden matrices, as in `hidden_matrices`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.muon(0.02, 3e-3)).inner.transforms]
    ['scale_by_muon', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    options = {"scale": scale, "products": products, "views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_muon(ns_coeffs, beta, mu_dtype, nesterov=nesterov, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)


@transform
def normuon(
    learning_rate: LearningRate,
    adam_learning_rate: LearningRate | None = None,
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    beta2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: AccumulatorDType = None,
    nesterov: bool = True,
    scale: ScaleOrFunction = jordan_scale(),  # noqa: B008  (a value)
    products: DTypeLike | None = None,
    which: str | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""NorMuon: as `muon`, with $u$ of `scale_by_normuon`.

    State: 4 bytes a parameter of hidden matrices and 4 an output, 8 of all else (twice that in float64).
    Source: Li et al. 2025, algorithm 1 (https://arxiv.org/abs/2510.05491).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      ns_coeffs, beta, beta2, eps, mu_dtype, nesterov, scale, products, views, axis_name, dim: as in `scale_by_normuon`.

    >>> import gdjax as gd
    >>> gd.expand(gd.normuon(0.02)).inner.transforms[0].factory.__name__
    'scale_by_normuon'
    """
    options = {"scale": scale, "products": products, "views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_normuon(ns_coeffs, beta, beta2, eps, mu_dtype, nesterov=nesterov, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)


@transform
def shampoo(
    learning_rate: LearningRate,
    adam_learning_rate: LearningRate | None = None,
    graft: optax.GradientTransformation = scale_by_adam(0.9, 0.999, 1e-8),  # noqa: B008  (a value)
    b1: Decay = 0.9,
    b2: Momentum = 0.999,
    eps: Positive = 1e-12,
    weight_decay: WeightDecay = 1e-4,
    every: int = 10,
    start: int | None = None,
    block: int = 1024,
    one_sided: bool = False,
    which: str | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Shampoo: $p \leftarrow p - \eta (u + \lambda p)$, $u$ of `scale_by_shampoo` for hidden matrices, else AdamW.

    State: of hidden matrices 12 bytes a parameter and $8 (a^2 + b^2)$ a block, of all else 8 (twice that in float64).
    Source: Gupta et al. 2018, algorithm 1 (https://arxiv.org/abs/1802.09568); Shi et al. 2023, algorithm 2
    (https://arxiv.org/abs/2309.06497).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      graft, b1, b2, eps, every, start, block, one_sided, views, axis_name, dim: as in `scale_by_shampoo`.

    >>> import gdjax as gd
    >>> gd.expand(gd.shampoo(1e-3)).inner.transforms[0].factory.__name__
    'scale_by_shampoo'
    """
    options = {"every": every, "start": start, "block": block, "one_sided": one_sided}
    options |= {"views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_shampoo(graft, b1, b2, eps, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)


@transform
def soap(
    learning_rate: LearningRate = 3e-3,
    adam_learning_rate: LearningRate | None = None,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.01,
    every: int = 10,
    max_dim: int = 10_000,
    one_sided: bool = False,
    which: str | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""SOAP: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_soap` for hidden matrices, else AdamW.

    State: of hidden matrices 8 bytes a parameter and $8 (m^2 + n^2)$ a matrix, of all else 8 (twice that in float64).
    Source: Vyas et al. 2024, algorithm 3 (https://arxiv.org/abs/2409.11321).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      b1, b2, shampoo_beta, eps, every, max_dim, one_sided, views, axis_name, dim: as in `scale_by_soap`.

    >>> import gdjax as gd
    >>> gd.expand(gd.soap()).inner.transforms[0].every
    10
    """
    options = {"every": every, "max_dim": max_dim, "one_sided": one_sided}
    options |= {"views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_soap(b1, b2, shampoo_beta, eps, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)


@transform
def psgd_kron(
    learning_rate: LearningRate,
    adam_learning_rate: LearningRate | None = None,
    b1: Decay = 0.9,
    preconditioner_update_probability: Annotated[ScalarOrSchedule, Interval("[0, 1]")] | None = None,
    precond_lr: Annotated[Scalar, Interval("(0, 1)")] = 0.1,
    precond_init_scale: Positive = 1.0,
    max_rms: Positive = 1.1,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: AccumulatorDType = None,
    max_size_triangular: int = 8192,
    max_skew_triangular: int | None = None,
    seed: int = 0,
    which: str | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""PSGD Kron: $p \leftarrow p - \eta (u + \lambda p)$, $u$ of `scale_by_psgd_kron` for hidden matrices, else AdamW.

    State: of hidden matrices 4 bytes a parameter and $4 (m^2 + n^2)$ a matrix, of all else 8 (twice that in float64).
    Source: Li 2018 (https://arxiv.org/abs/1809.10232), as in Kron (https://github.com/evanatyourservice/kron_torch).

    Args:
      learning_rate, adam_learning_rate, weight_decay, which: as in `muon`.
      b1, preconditioner_update_probability, precond_lr, precond_init_scale, max_rms: as in `scale_by_psgd_kron`.
      mu_dtype, max_size_triangular, max_skew_triangular, seed, views, axis_name, dim: as in `scale_by_psgd_kron`.

    >>> import gdjax as gd
    >>> gd.expand(gd.psgd_kron(1e-3)).inner.transforms[0].precond_lr
    0.1
    """
    options = {"max_size_triangular": max_size_triangular, "max_skew_triangular": max_skew_triangular, "seed": seed}
    options |= {"views": views, "axis_name": axis_name, "dim": dim}
    learning = (preconditioner_update_probability, precond_lr, precond_init_scale, max_rms)
    direction = scale_by_psgd_kron(b1, *learning, mu_dtype, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)


def _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which):
    """Hidden matrices go in a direction, all else as AdamW does."""
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    inner = chain(direction, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate))
    return hidden_matrices(inner, adamw(rate, weight_decay=weight_decay), which)
