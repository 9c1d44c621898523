"""A matrix method for hidden matrices, AdamW for all else: Muon, NorMuon."""

from typing import Any

from gdjax.compose import chain, hidden_matrices
from gdjax.linalg import JORDAN
from gdjax.matrices import jordan_scale
from gdjax.optimizers.adam import adamw
from gdjax.transforms import add_decayed_weights, scale_by_learning_rate, scale_by_muon, scale_by_normuon
from gdjax.value import Decay, NonNegative, Rate, WeightDecay, transform


@transform
def muon(
    learning_rate: Rate,
    adam_learning_rate: Rate | None = None,
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    scale: Any = jordan_scale(),  # noqa: B008  (a value)
    products: Any = None,
    which: str | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Muon: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_muon` for hidden matrices; AdamW for the rest.

    State: 4 bytes a parameter of hidden matrices, 8 of all else (8 and 16 in float64).
    Source: Jordan 2024 (https://kellerjordan.github.io/posts/muon). Differs from Optax: embeddings and heads are AdamW's
    though they are matrices, stacked layers are Muon's though they are not (`hidden_matrices`); arguments by name.

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
    learning_rate: Rate,
    adam_learning_rate: Rate | None = None,
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    beta2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    scale: Any = jordan_scale(),  # noqa: B008  (a value)
    products: Any = None,
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
    >>> gd.expand(gd.normuon(0.02)).inner[0].__name__
    'init'
    """
    options = {"scale": scale, "products": products, "views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_normuon(ns_coeffs, beta, beta2, eps, mu_dtype, nesterov=nesterov, **options)
    return _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)


def _with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which):
    """Hidden matrices go in a direction, all else as AdamW does."""
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    inner = chain(direction, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate))
    return hidden_matrices(inner, adamw(rate, weight_decay=weight_decay), which)
