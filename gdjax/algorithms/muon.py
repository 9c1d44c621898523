"""Muon: momentum replaced by its orthogonal factor."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from gdjax import tree
from gdjax.algorithms.hidden import combine_with_adamw
from gdjax.axes import AxisName
from gdjax.linalg import JORDAN, orthogonalize
from gdjax.linalg.newton_schulz import Coefficients
from gdjax.matrices import Layout, ScaleOrFunction, jordan_scale
from gdjax.transforms.moments import bias_corrected, means, nesterov_mean
from gdjax.value import (
    AccumulatorDType,
    Decay,
    LearningRate,
    WeightDecay,
    transform,
)
from gdjax.value.printing import brief


@transform(upcast=True)
def scale_by_muon(
    ns_coeffs: Any = JORDAN,
    beta: Decay = 0.95,
    mu_dtype: AccumulatorDType = None,
    nesterov: bool = True,
    scale: ScaleOrFunction = jordan_scale(),  # noqa: B008  (a value)
    products: DTypeLike | None = None,
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""Replace the momentum of each matrix by its orthogonal factor, scaled by its shape.

    $m \leftarrow \beta m + (1 - \beta) g$, $\hat m$ as in `scale_by_adam` (with Nesterov); the update is
    $s(in, out)\, UV^*$, $\hat m = U \Sigma V^*$, by Newton-Schulz.

    The last two dimensions of a leaf are a matrix (inputs, outputs), and earlier dimensions stack such matrices. A
    vector is a matrix of one column. Matrices of the same shape, or of its transpose, form one batch. The devices of an
    axis share the arithmetic evenly and exchange results: by one all-gather, or by two all-to-alls if leaves are
    sharded. Momentum is never sent.

    State: `MuonState(count, mu, ns_coeffs)`, 4 bytes per parameter (8 in float64).
    Source: Jordan 2024 (https://kellerjordan.github.io/posts/muon); the distribution follows Liu et al. 2025, algorithm
    1 (https://arxiv.org/abs/2502.16982). Differs from Jordan, as Optax does: the mean is bias-corrected. Differs from
    Optax: takes a scale and leaves of any shape, and needs no `eps`, as the size of a gradient does not matter.

    Args:
      ns_coeffs: a table of `gd.linalg`, one row $(a, b, c)$ for each step.
      beta: $\beta$, in [0, 1).
      mu_dtype: the dtype of `mu`; by default that of the parameters, at least float32.
      nesterov: whether to use Nesterov's mean, as in `scale_by_adam`.
      scale: $s$: `jordan_scale()`, `moonlight_scale()`, or a function of inputs and outputs.
      products: the dtype to which real factors of products are rounded, such as `bfloat16`; by default no rounding.
      views: views by pattern of paths, as in `gd.matrices.view`.
      axis_name: the axis whose devices share the work, of `vmap`, `pmap`, `shard_map`, or of the mesh under `jit`.
      dim: the dimension along which leaves are sharded over that axis; by default they are replicated.

    Raises:
      ValueError: if a view does not fit its leaf, or if the axis is not bound.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_muon(gd.linalg.CONVERGING)
    >>> g = jnp.array([[0.0, 3.0], [4.0, 0.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(3))
    [[0. 1.]
     [1. 0.]]
    """
    table = require_coefficients("scale_by_muon", ns_coeffs, products)
    layout = Layout.of("scale_by_muon", views, axis_name, dim)

    def init(params):
        layout.check(params)
        return optax.contrib.MuonState(jnp.zeros((), jnp.int32), tree.accumulators(params, 0, mu_dtype), coefficients())

    def coefficients():
        return jnp.asarray(table[0] if len(set(table)) == 1 else table, jnp.float32)

    def update(g, state, params=None):
        count, m, m_hat = muon_momentum(g, state, beta, nesterov)
        o = layout.map_stacks(lambda x: orthogonalize(x, table, products), m_hat)
        scaled = scale_by_shape(o, layout.shapes(g), scale)
        return scaled, optax.contrib.MuonState(count, m, coefficients())

    return init, update


def muon_momentum(g, state, beta, nesterov):
    """Return the count and the momentum after a step, and the bias-corrected momentum to orthogonalize."""
    count, m = optax.safe_increment(state.count), means(g, state.mu, beta)
    scaled_g, scaled_m = jax.tree.map(lambda x: x * 2.0**-4, (g, m))  # a direction; scaled down, it cannot overflow
    if nesterov:
        return count, m, nesterov_mean(scaled_g, scaled_m, beta, count)
    return count, m, bias_corrected(scaled_m, beta, count)


def scale_by_shape(updates, shapes, scale):
    """Multiply each leaf by the scale of its matrices' shape."""
    return jax.tree.map(lambda u, shape: u * tree.scalar(scale(shape.inputs, shape.outputs), u), updates, shapes)


def require_coefficients(who: str, coefficients: object, products: DTypeLike | None) -> Coefficients:
    """Return a table of Newton-Schulz coefficients as floats; `products` must be `None` or a floating dtype."""
    given = _as_list(coefficients)
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"{who}: ns_coeffs must be a table of gd.linalg, got {brief(coefficients)}.")
    if not (products is None or jnp.issubdtype(products, jnp.floating)):
        raise ValueError(f"{who}: products must be a floating dtype, got {products!r}.")
    rows = [_as_list(row) for row in given]
    if not rows or not all(isinstance(row, (tuple, list)) and len(row) == 3 for row in rows):
        raise ValueError(
            f"{who}: ns_coeffs must be a table with one row (a, b, c) for each step, got {coefficients!r}."
        )
    return tuple((float(a), float(b), float(c)) for a, b, c in rows)


def _as_list(x: Any) -> Any:
    """Return an array as nested lists of numbers, and anything else unchanged."""
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
    views: Mapping[str, str] | None = None,
    axis_name: AxisName = None,
    dim: int | None = None,
):
    r"""Muon for hidden matrices, AdamW for all other leaves.

    Hidden matrices: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_muon`.

    State: 4 bytes per parameter of hidden matrices, 8 per other parameter (8 and 16 in float64).
    Source: Jordan 2024 (https://kellerjordan.github.io/posts/muon). Differs from Optax: AdamW takes embeddings and
    heads, although they are matrices, and Muon takes stacked layers, although they are not (`hidden_matrices`).

    Args:
      learning_rate: $\eta$ of hidden matrices, a number or a schedule of it.
      adam_learning_rate: $\eta$ of all other leaves; by default the same, which fits `moonlight_scale()`.
      ns_coeffs, beta, mu_dtype, nesterov, scale, products, views, axis_name, dim: as in `scale_by_muon`.
      weight_decay: $\lambda$ for all leaves, in [0, inf), or a schedule of it.
      which: a pattern for the paths of hidden matrices, as in `hidden_matrices`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.muon(0.02, 3e-3)).inner.transforms]
    ['scale_by_muon', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    options = {"scale": scale, "products": products, "views": views, "axis_name": axis_name, "dim": dim}
    direction = scale_by_muon(ns_coeffs, beta, mu_dtype, nesterov=nesterov, **options)
    return combine_with_adamw(direction, learning_rate, adam_learning_rate, weight_decay, which)
