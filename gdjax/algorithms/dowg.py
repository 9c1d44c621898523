"""DoWG: DoG with squares weighted by the distance from the start."""

import jax
import jax.numpy as jnp
from optax.contrib import DoWGState

from gdjax import tree
from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.squares import ScaledNorm, clip_to_norm
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.distance import (
    add_square,
    displacement,
    distance_and_gradient_norms,
    largest_summable,
    nonzero_or_one,
    sum_dtype,
)
from gdjax.transforms.scaling import identity, multiply_updates, scale_by_learning_rate
from gdjax.tree import Mask
from gdjax.value import LearningRate, NonNegative, Positive, WeightDecay, transform
from gdjax.value.diagnose import require_params


@transform(packable=True, shardable=True, upcast=True)
def scale_by_dowg(init_estim_sq_dist: Positive | None = None, eps: NonNegative = 1e-4, axis_name: AxisName = None):
    r"""Scale by the largest squared distance from the start over the root of a sum of squares weighted by it.

    $\bar r^2 \leftarrow \max(\bar r^2, \lVert p - p_0 \rVert^2)$, $v \leftarrow v + \bar r^2 \lVert g \rVert^2$; the
    update is $\bar r^2 g / (\sqrt v + \epsilon)$. Norms are taken over all leaves as one vector.

    State: `DoWGState(init_params, weighted_sq_norm_grads, estim_sq_dist)`, a copy of the parameters and 8 bytes.
    Source: Khaled et al. 2023, algorithm 1 (https://arxiv.org/abs/2305.16284). Differs from the paper: it adds
    $\epsilon$. If $\bar r \lVert g \rVert$ exceeds 7.2e16 (in float32), the gradient is scaled down to it.

    Args:
      init_estim_sq_dist: the first $\bar r^2$, in (0, inf]; by default `eps`, which must then be above 0.
      eps: $\epsilon$, in [0, inf).
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if the first $\bar r^2$ is 0, which would never move, or if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_dowg(0.25, eps=0.0)
    >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0])
    [0.3 0.4]
    """
    if init_estim_sq_dist is None and isinstance(eps, float) and eps == 0.0:
        raise ValueError("scale_by_dowg: init_estim_sq_dist or eps must be above 0, got neither.")

    def init(params):
        dtype = sum_dtype(params)
        sq_dist = tree.fresh(eps if init_estim_sq_dist is None else init_estim_sq_dist, dtype)
        return DoWGState(tree.fresh(params), weighted_sq_norm_grads=jnp.zeros((), dtype), estim_sq_dist=sq_dist)

    def update(g, state, params=None):
        require_params("scale_by_dowg", params)
        p = tree.widen(params)
        moved = displacement(state.init_params, p)
        distance, g_norm = distance_and_gradient_norms(moved, tree.cast_like(g, p), axis_name)
        sq_dist = jnp.maximum(state.estim_sq_dist, jnp.square(distance.norm()))
        weighted = ScaledNorm(jnp.sqrt(sq_dist) * g_norm.root, g_norm.scale)
        v = add_square(state.weighted_sq_norm_grads, weighted.norm())
        g = jax.tree.map(lambda g: clip_to_norm(g, weighted, largest_summable(weighted)), g)
        root = jnp.where(v == 0, 0.0, jnp.sqrt(nonzero_or_one(v)))  # v may underflow to 0, and then eps alone counts
        step = sq_dist / nonzero_or_one(root + tree.scalar(eps, v))
        return multiply_updates(g, step), DoWGState(state.init_params, v, sq_dist)

    return init, update


@transform
def dowg(
    learning_rate: LearningRate = 1.0,
    init_estim_sq_dist: Positive | None = None,
    eps: NonNegative = 1e-4,
    weight_decay: WeightDecay | None = None,
    mask: Mask | None = None,
    axis_name: AxisName = None,
):
    r"""DoWG: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_dowg`, applied to $g + \lambda p$.

    State: a copy of the parameters and 8 bytes. Source: Khaled et al. 2023, algorithm 1 (https://arxiv.org/abs/2305.16284).

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      init_estim_sq_dist, eps, axis_name: as in `scale_by_dowg`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`; `None` for no decay.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.dowg()).transforms]
    ['identity', 'scale_by_dowg', 'scale_by_learning_rate']
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps, axis_name),
        scale_by_learning_rate(learning_rate),
    )
