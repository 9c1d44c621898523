"""Adafactor, held back where its steps disagree: CAME."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.transforms.factored import factored_means, factors, over_factored_root
from gdjax.transforms.moments import means
from gdjax.value import Decay, Positive, transform


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
):
    r"""Average Adafactor's steps, and divide the mean by the root of a factored mean of what they differ from it by.

    $u = g / \sqrt{\hat V}$, $\hat V$ of the factored mean of $|g|^2 + \epsilon_1$, then
    $u \leftarrow u / \max(1, \mathrm{RMS}(u) / d)$; $m \leftarrow \beta_1 m + (1 - \beta_1) u$; the update is
    $m / \sqrt{\hat S}$, $\hat S$ of the factored mean of $|u - m|^2 + \epsilon_2$, and $m$ where a leaf is not
    factored.

    State: `ScaleByCameState(mu, v_row, v_col, v, res_row, res_col)`, 4 bytes a parameter and 8 a row and a column of a
    factored leaf, 8 a parameter of the others (twice that in float64).
    Source: Luo et al. 2023, algorithm 2 (https://arxiv.org/abs/2307.02047); leaves of one axis as in its authors' code.

    Args:
      b1: $\beta_1$, the decay of the mean of steps, in [0, 1).
      b2: $\beta_2$, that of the squares of gradients, in [0, 1).
      b3: $\beta_3$, that of the squared distances, in [0, 1).
      eps: $\epsilon_1$, in (0, inf].
      eps_res: $\epsilon_2$, in (0, inf].
      clipping_threshold: $d$, in (0, inf].
      min_dim_size_to_factor: how long the shorter of the two largest axes must be.

    >>> import gdjax as gd
    >>> tx = gd.scale_by_came(b1=0.5, b3=0.0)
    >>> g = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> print(tx.update(g, tx.init(g))[0].round(4))
    [[1. 1.]
     [1. 1.]]
    """
    least = min_dim_size_to_factor

    def init(params):
        return ScaleByCameState(tree.accumulators(params, 0), *factors(params, least), *factors(params, least)[:2])

    def update(updates, state, params=None):
        g = tree.widen(updates)
        v = factored_means(g, (state.v_row, state.v_col, state.v), b2, eps, least)
        u = jax.tree.map(lambda g, *of: over_factored_root(g, least, *of), g, *v)
        u = jax.tree.map(lambda u: u / jnp.maximum(1.0, tree.leaf_rms(u) / clipping_threshold), u)
        m = means(u, state.mu, b1)
        none = jax.tree.map(jnp.ones_like, state.v)  # a leaf that is not factored is divided by 1
        res = factored_means(jax.tree.map(jnp.subtract, u, m), (state.res_row, state.res_col, none), b3, eps_res, least)
        scaled = jax.tree.map(lambda m, *of: over_factored_root(m, least, *of), m, *res[:2], none)
        kept = [tree.cast_like(new, old) for new, old in zip((m, *v, *res[:2]), state, strict=True)]
        return tree.cast_like(scaled, updates), ScaleByCameState(*kept)

    return init, update
