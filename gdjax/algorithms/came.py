"""Adafactor, held back where its steps disagree: CAME."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import norms, tree
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.factoring import Factoring
from gdjax.transforms.moments import means, squarable
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.value import (
    Decay,
    LearningRate,
    Positive,
    WeightDecay,
    transform,
)


class ScaleByCameState(NamedTuple):
    """Two factored means and a whole one; of a leaf that is not factored `v` and `mu` alone."""

    mu: Any
    """$m$, the mean of steps, shaped like the parameters."""
    v_row: Any
    v_col: Any
    v: Any
    """$R$, $C$ and $V$ of squared gradients, as in `scale_by_factored_rms`."""
    res_row: Any
    res_col: Any
    """$R$ and $C$ of the squared distances of steps from their mean."""


@transform
def scale_by_came(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    eps: Positive = 1e-30,
    eps_res: Positive = 1e-16,
    clipping_threshold: Positive = 1.0,
    min_dim_size_to_factor: int = 2,
    axis_name: Any = None,
    dim: int = 0,
):
    r"""Average Adafactor's steps, and divide the mean by the root of a factored mean of what they differ from it by.

    $u = g / \sqrt{\hat V}$, $\hat V$ of the factored mean of $|g|^2 + \epsilon_1$, then
    $u \leftarrow u / \max(1, \mathrm{RMS}(u) / d)$; $m \leftarrow \beta_1 m + (1 - \beta_1) u$; the update is
    $m / \sqrt{\hat S}$, $\hat S$ of the factored mean of $|u - m|^2 + \epsilon_2$, and $m$ where a leaf is not
    factored.

    State: `ScaleByCameState(mu, v_row, v_col, v, res_row, res_col)`, 4 bytes a parameter and 8 a row and a column of a
    factored leaf, 8 a parameter of the others (twice that in float64).
    Source: Luo et al. 2023, algorithm 2 (https://arxiv.org/abs/2307.02047); leaves of one axis as in its authors' code.
    Gradients beyond 1.8e19 are clipped to that, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, the decay of the mean of steps, in [0, 1).
      b2: $\beta_2$, that of the squares of gradients, in [0, 1).
      b3: $\beta_3$, that of the squared distances, in [0, 1).
      eps: $\epsilon_1$, in (0, inf].
      eps_res: $\epsilon_2$, in (0, inf].
      clipping_threshold: $d$, in (0, inf].
      min_dim_size_to_factor: how long the shorter of the two largest axes must be.
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.
      dim: the dimension along which leaves are divided; another for some by `by_path`.

    Raises:
      ValueError: if the axis is not there, at `init` as well, or a leaf that is divided has no dimension `dim`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_came(b1=0.5, b3=0.0)
    >>> g = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(4))
    [[1. 1.]
     [1. 1.]]
    """
    factoring = Factoring(min_dim_size_to_factor, axis_name, dim)

    def init(params):
        zeros = tree.accumulators(params, 0)
        return ScaleByCameState(zeros, *factoring.zeros(params), *factoring.zeros(params)[:2])

    def update(updates, state, params=None):
        g = tree.widen(updates)
        v = factoring.means(g, (state.v_row, state.v_col, state.v), b2, eps)
        u = factoring.over_root(squarable(g), *v)
        sizes = norms.leaf_rms(u, axis_name)
        u = jax.tree.map(lambda u, size: u / jnp.maximum(1.0, size / clipping_threshold), u, sizes)
        m = means(u, state.mu, b1)
        none = jax.tree.map(jnp.ones_like, state.v)  # a leaf that is not factored is divided by 1
        res = factoring.means(jax.tree.map(jnp.subtract, u, m), (state.res_row, state.res_col, none), b3, eps_res)
        scaled = factoring.over_root(m, *res[:2], none)
        kept = [tree.cast_like(new, old) for new, old in zip((m, *v, *res[:2]), state, strict=True)]
        return tree.cast_like(scaled, updates), ScaleByCameState(*kept)

    return init, update


@transform
def came(
    learning_rate: LearningRate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    eps: Positive = 1e-30,
    eps_res: Positive = 1e-16,
    clipping_threshold: Positive = 1.0,
    weight_decay: WeightDecay = 0.0,
    mask: Any = None,
    axis_name: Any = None,
    dim: int = 0,
):
    r"""CAME: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ of `scale_by_came`.

    State: 4 bytes a parameter of a matrix, 8 of a vector (8 and 16 in float64).
    Source: Luo et al. 2023, algorithm 2 (https://arxiv.org/abs/2307.02047).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      b1, b2, b3, eps, eps_res, clipping_threshold, axis_name, dim: as in `scale_by_came`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.came(0.1)).transforms]
    ['scale_by_came', 'add_decayed_weights', 'scale_by_learning_rate']
    """
    return chain(
        scale_by_came(b1, b2, b3, eps, eps_res, clipping_threshold, axis_name=axis_name, dim=dim),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
