"""Orthogonal momentum: Muon and NorMuon."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from gdjax import tree
from gdjax.algorithms.hidden import _with_adamw
from gdjax.linalg import JORDAN, orthogonalize
from gdjax.linalg.newton_schulz import Coefficients
from gdjax.matrices import Layout, ScaleOrFunction, jordan_scale
from gdjax.transforms.moments import corrected, looking_ahead, means
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    WeightDecay,
    transform,
)
from gdjax.value.printing import brief


@transform
def scale_by_muon(
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    mu_dtype: AccumulatorDType = None,
    nesterov: bool = True,
    scale: ScaleOrFunction = jordan_scale(),  # noqa: B008  (a value)
    products: DTypeLike | None = None,
    views: Any = None,
    axis_name: Any = None,
    dim: int | None = None,
):
    r"""Replace the momentum of every matrix by its orthogonal factor, as long as its shape says.

    $m \leftarrow \beta m + (1 - \beta) g$, $\hat m$ as in `scale_by_adam` (with Nesterov); the update is
    $s(in, out)\, UV^*$, $\hat m = U \Sigma V^*$, by Newton-Schulz.

    Of a leaf, the last two dimensions are a matrix of inputs by outputs and those before them a stack of such; a vector
    is a matrix of one column. Matrices of one shape, or its transpose, are one batch. Over an axis its members divide
    them, each so much of the arithmetic as the others, and send results: one all-gather, or two all-to-alls where
    leaves are divided. Momentum is never sent.

    State: `MuonState(count, mu, ns_coeffs)`, 4 bytes a parameter (8 in float64).
    Source: Jordan 2024 (https://kellerjordan.github.io/posts/muon); the division, after Liu et al. 2025, algorithm 1
    (https://arxiv.org/abs/2502.16982). Differs from Jordan, as Optax does: the mean is corrected. Differs from Optax:
    it has the scale, no `eps` since the size of a gradient does not matter, and takes leaves of any shape.

    Args:
      ns_coeffs: a table of `gd.linalg`, one row $(a, b, c)$ for each step.
      beta: $\beta$, in [0, 1).
      mu_dtype: the dtype in which `mu` is kept; by default that of the parameters, float32 at least.
      nesterov: whether to look ahead by one step of the mean.
      scale: $s$: `jordan_scale()`, `moonlight_scale()`, or a function of inputs and outputs.
      products: the dtype that real factors of products are rounded to, such as `bfloat16`; by default none.
      views: a view for every pattern of paths that has one, as in `gd.matrices.view`.
      axis_name: the axis whose members divide the work, of `vmap`, `pmap`, `shard_map`, or of the mesh under `jit`.
      dim: the dimension along which leaves are divided over that axis; by default every member has whole ones.

    Raises:
      ValueError: if a view does not fit its leaf, or the axis is not there.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_muon(gd.linalg.CONVERGING)
    >>> g = jnp.array([[0.0, 3.0], [4.0, 0.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(3))
    [[0. 1.]
     [1. 0.]]
    """
    table = _table("scale_by_muon", ns_coeffs, products)
    layout = Layout.of("scale_by_muon", views, axis_name, dim)

    def init(params):
        layout.check(params)
        return optax.contrib.MuonState(jnp.zeros((), jnp.int32), tree.accumulators(params, 0, mu_dtype), kept())

    def kept():
        return jnp.asarray(table[0] if len(set(table)) == 1 else table, jnp.float32)

    def update(updates, state, params=None):
        count, mu, direction = _direction(updates, state, beta, nesterov)
        moved = layout.each(lambda x: orthogonalize(x, table, products), direction)
        moved = _scaled(moved, layout.shapes(updates), scale)
        return tree.cast_like(moved, updates), optax.contrib.MuonState(count, mu, kept())

    return init, update


def _direction(updates, state, beta, nesterov):
    """The count and the momentum after a step, and what is to be made orthogonal."""
    count, g = optax.safe_increment(state.count), tree.widen(updates)
    mu = means(g, state.mu, beta)
    g, m = jax.tree.map(lambda x: x * 2.0**-4, (g, mu))  # a direction has no size: scaled, it cannot overflow
    direction = looking_ahead(g, m, beta, count) if nesterov else corrected(m, beta, count)
    return count, tree.cast_like(mu, state.mu), direction


def _scaled(moved, shapes, scale):
    """Updates as long as the shapes of their matrices say."""
    return jax.tree.map(lambda u, shape: u * tree.scalar(scale(shape.inputs, shape.outputs), u), moved, shapes)


def _table(who: str, coefficients: Any, products: Any) -> Coefficients:
    """A table of coefficients as floats; the dtype of products must be a floating one."""
    given = _lists(coefficients)
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"{who}: ns_coeffs must be a table of gd.linalg, got {brief(coefficients)}.")
    if not (products is None or jnp.issubdtype(products, jnp.floating)):
        raise ValueError(f"{who}: products must be a floating dtype, got {products!r}.")
    rows = [_lists(row) for row in given]
    if not rows or not all(isinstance(row, (tuple, list)) and len(row) == 3 for row in rows):
        raise ValueError(
            f"{who}: ns_coeffs must be a table with one row (a, b, c) for each step, got {coefficients!r}."
        )
    return tuple((float(a), float(b), float(c)) for a, b, c in rows)


def _lists(x: Any) -> Any:
    """Return an array as lists of numbers, and anything else as it is."""
    return np.asarray(x).tolist() if isinstance(x, (np.ndarray, jax.Array)) else x


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
