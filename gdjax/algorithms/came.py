"""CAME: Adafactor with smaller steps where they disagree with their mean."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import norms, tree
from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.factoring import Factoring
from gdjax.transforms.moments import clip_to_squarable, means
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import (
    Decay,
    LearningRate,
    Positive,
    WeightDecay,
    transform,
)


class ScaleByCameState(NamedTuple):
    """State of CAME; a leaf that is not factored uses only `mu` and `v`."""

    mu: Any
    """$m$, the mean of steps, shaped like the parameters."""
    v_row: Any
    v_col: Any
    v: Any
    """$R$, $C$ and $V$ of squared gradients, as in `scale_by_factored_rms`."""
    res_row: Any
    res_col: Any
    """$R$ and $C$ of the squared deviations of steps from their mean."""


@transform(upcast=True)
def scale_by_came(
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    eps: Positive = 1e-30,
    eps_res: Positive = 1e-16,
    clipping_threshold: Positive = 1.0,
    min_dim_size_to_factor: int = 2,
    axis_name: AxisName = None,
    dim: int = 0,
):
    r"""Average Adafactor's steps, and divide the mean by the root mean square of their deviations from it.

    With $\hat V$ the factored mean of $|g|^2 + \epsilon_1$: $u = g / \sqrt{\hat V}$,
    $u \leftarrow u / \max(1, \mathrm{RMS}(u) / d)$ and $m \leftarrow \beta_1 m + (1 - \beta_1) u$. With $\hat S$ the
    factored mean of $|u - m|^2 + \epsilon_2$, the update is $m / \sqrt{\hat S}$, or $m$ if the leaf is not factored.

    State: `ScaleByCameState(mu, v_row, v_col, v, res_row, res_col)`. A factored leaf takes 4 bytes per parameter and 8
    per row and per column, others 8 per parameter (twice that in float64).
    Source: Luo et al. 2023, algorithm 2 (https://arxiv.org/abs/2307.02047); leaves of one axis as in its authors' code.
    Gradients beyond 1.8e19 are clipped to it, as in `scale_by_adam`.

    Args:
      b1: $\beta_1$, the decay of the mean of steps, in [0, 1).
      b2: $\beta_2$, the decay of the squared gradients, in [0, 1).
      b3: $\beta_3$, the decay of the squared deviations, in [0, 1).
      eps: $\epsilon_1$, in (0, inf].
      eps_res: $\epsilon_2$, in (0, inf].
      clipping_threshold: $d$, in (0, inf].
      min_dim_size_to_factor: the least length of the shorter of the two largest axes.
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.
      dim: the dimension along which leaves are sharded; use `by_path` if it differs between leaves.

    Raises:
      ValueError: if the axis is not bound, also at `init`, or if a sharded leaf has no dimension `dim`.

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

    def update(g, state, params=None):
        v = factoring.means(g, (state.v_row, state.v_col, state.v), b2, eps)
        u = factoring.divide_by_root(clip_to_squarable(g), *v)
        rms = norms.leaf_rms(u, axis_name)
        u = jax.tree.map(lambda u, rms: u / jnp.maximum(1.0, rms / clipping_threshold), u, rms)
        m = means(u, state.mu, b1)
        ones = jax.tree.map(jnp.ones_like, state.v)  # a leaf that is not factored is divided by 1
        res = factoring.means(jax.tree.map(jnp.subtract, u, m), (state.res_row, state.res_col, ones), b3, eps_res)
        scaled = factoring.divide_by_root(m, *res[:2], ones)
        return scaled, ScaleByCameState(m, *v, *res[:2])

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
    mask: Mask | None = None,
    axis_name: AxisName = None,
    dim: int = 0,
):
    r"""CAME: $p \leftarrow p - \eta (u + \lambda p)$ with $u$ from `scale_by_came`.

    State: 4 bytes per parameter of a matrix, 8 per parameter of a vector (8 and 16 in float64).
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
