"""NorMuon: Muon with the weights of each output normalized by their usual size."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import DTypeLike

from gdjax import tree
from gdjax.algorithms.hidden import combine_with_adamw
from gdjax.algorithms.muon import muon_momentum, require_coefficients, scale_by_shape
from gdjax.axes import AxisName
from gdjax.linalg import JORDAN, norm_ratio, orthogonalize
from gdjax.matrices import Layout, ScaleOrFunction, jordan_scale
from gdjax.transforms.moments import mean
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    NonNegative,
    WeightDecay,
    transform,
)


class NorMuonState(NamedTuple):
    """State of NorMuon: the momentum, and the mean square of each output of its orthogonal factor."""

    count: Any
    """The number of steps, int32 of shape ()."""
    mu: Any
    """$m$, the mean of gradients, shaped like the parameters."""
    nu: tuple[jax.Array, ...]
    """$v$, for each stack of matrices, of shape (matrices, outputs)."""


@transform(upcast=True)
def scale_by_normuon(
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    beta2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    mu_dtype: AccumulatorDType = None,
    nesterov: bool = True,
    scale: ScaleOrFunction = jordan_scale(),  # noqa: B008  (a value)
    products: DTypeLike | None = None,
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""Replace momentum by its orthogonal factor, as `scale_by_muon` does, and normalize each output of it.

    With $O$ the orthogonal factor of `scale_by_muon`, and for each output $j$:
    $v_j \leftarrow \beta_2 v_j + (1 - \beta_2)\, \mathrm{mean}_i |O_{ij}|^2$,
    $\bar O_{ij} = O_{ij} / (\sqrt{v_j} + \epsilon)$; the update is
    $s(in, out)\, \bar O\, \lVert O \rVert / \lVert \bar O \rVert$.

    State: `NorMuonState(count, mu, nu)`, 4 bytes per parameter and 4 per output (8 and 8 in float64).
    Source: Li et al. 2025, algorithm 1 (https://arxiv.org/abs/2510.05491). Differs from the paper: the momentum is
    that of `scale_by_muon`, the norm that of $O$, and $s$ a function.

    Args:
      ns_coeffs, beta, mu_dtype, nesterov, scale, products, views, axis_name, dim: as in `scale_by_muon`.
      beta2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, in [0, inf).

    Raises:
      ValueError: if a view does not fit its leaf, or if the axis is not bound.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_normuon(gd.linalg.CONVERGING)
    >>> g = jnp.array([[3.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(3))
    [[1. 1.]]
    """
    table = require_coefficients("scale_by_normuon", ns_coeffs, products)
    layout = Layout.of("scale_by_normuon", views, axis_name, dim, oriented=True)

    def init(params):
        mu = tree.accumulators(params, 0, mu_dtype)
        return NorMuonState(jnp.zeros((), jnp.int32), mu, layout.init(zero_moment, params))

    def zero_moment(batch, x):
        return jnp.sum(tree.abs_sq(x), axis=batch.input_axis)

    def update(g, state, params=None):
        count, m, m_hat = muon_momentum(g, state, beta, nesterov)
        normalize = functools.partial(_normuon_direction, table, products)
        direction, nu = layout.map(Partial(normalize, beta2, eps), [m_hat], state.nu)
        return scale_by_shape(direction, layout.shapes(g), scale), NorMuonState(count, m, nu)

    return init, update


def _normuon_direction(table, products, beta2, eps, batch, v, x):
    """Return the orthogonal factors of a stack with normalized outputs, and the outputs' mean squares."""
    o = orthogonalize(x, table, products)
    v = mean(jnp.mean(tree.abs_sq(o), axis=batch.input_axis), v, beta2)
    o_bar = o / (tree.root(jnp.expand_dims(v, batch.input_axis)) + eps)
    return o_bar * norm_ratio(o, o_bar), v


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
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""NorMuon for hidden matrices, AdamW for all other leaves: `muon` with $u$ from `scale_by_normuon`.

    State: 4 bytes per parameter of hidden matrices and 4 per output, 8 per other parameter (twice that in float64).
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
    return combine_with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
