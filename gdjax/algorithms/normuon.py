"""NorMuon: Muon whose rows are brought to one size."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import DTypeLike

from gdjax import tree
from gdjax.algorithms.hidden import _with_adamw
from gdjax.algorithms.muon import _direction, _scaled, _table
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
    """Muon's momentum, and how long the rows of its orthogonal factors were."""

    count: Any
    """How many steps were taken, of shape ()."""
    mu: Any
    """$m$, the mean of gradients, shaped like the parameters."""
    nu: tuple[jax.Array, ...]
    """$v$, of every stack of matrices the mean squares by outputs, of shape (matrices, outputs)."""


@transform
def scale_by_normuon(
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    beta2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    mu_dtype: AccumulatorDType = None,
    nesterov: bool = True,
    scale: ScaleOrFunction = jordan_scale(),  # noqa: B008  (a value)
    products: DTypeLike | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Muon whose neurons all move as far: what belongs to an output is divided by the size that it mostly has.

    With $O$ the orthogonal factor of `scale_by_muon`, of every output $j$:
    $v_j \leftarrow \beta_2 v_j + (1 - \beta_2)\, \mathrm{mean}_i |O_{ij}|^2$,
    $\bar O_{ij} = O_{ij} / (\sqrt{v_j} + \epsilon)$; the update is
    $s(in, out)\, \bar O\, \lVert O \rVert / \lVert \bar O \rVert$.

    State: `NorMuonState(count, mu, nu)`, 4 bytes a parameter and 4 an output (8 and 8 in float64).
    Source: Li et al. 2025, algorithm 1 (https://arxiv.org/abs/2510.05491). Differs from the paper: momentum is that of
    `scale_by_muon`, the norm that of $O$, and $s$ a function.

    Args:
      ns_coeffs, beta, mu_dtype, nesterov, scale, products, views, axis_name, dim: as in `scale_by_muon`.
      beta2: $\beta_2$, in [0, 1).
      eps: $\epsilon$, in [0, inf).

    Raises:
      ValueError: if a view does not fit its leaf, or the axis is not there.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_normuon(gd.linalg.CONVERGING)
    >>> g = jnp.array([[3.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(3))
    [[1. 1.]]
    """
    table = _table("scale_by_normuon", ns_coeffs, products)
    layout = Layout.of("scale_by_normuon", views, axis_name, dim, oriented=True)

    def init(params):
        mu = tree.accumulators(params, 0, mu_dtype)
        return NorMuonState(jnp.zeros((), jnp.int32), mu, layout.init(kept, params))

    def kept(piece, x):
        return jnp.sum(tree.abs_sq(x), axis=piece.inputs)

    def update(updates, state, params=None):
        count, mu, direction = _direction(updates, state, beta, nesterov)
        evened = functools.partial(_evened, table, products)
        moved, nu = layout.map(Partial(evened, beta2, eps), [direction], state.nu)
        moved = _scaled(moved, layout.shapes(updates), scale)
        return tree.cast_like(moved, updates), NorMuonState(count, mu, nu)

    return init, update


def _evened(table, products, beta2, eps, piece, nu, x):
    """Orthogonal factors, each output over its usual length, and these lengths squared."""
    o = orthogonalize(x, table, products)
    nu = mean(jnp.mean(tree.abs_sq(o), axis=piece.inputs), nu, beta2)
    even = o / (tree.root(jnp.expand_dims(nu, piece.inputs)) + eps)
    return even * norm_ratio(o, even), nu


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
