"""DoWG: DoG whose squares are weighted by the distance gone."""

from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import DoWGState

from gdjax import tree
from gdjax.compose.chain import chain
from gdjax.squares import ScaledNorm, clip_to_norm
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.distance import divisor, gone_and_met, largest, sum_dtype, way, with_square
from gdjax.transforms.scaling import identity, scale_by_learning_rate, scaled
from gdjax.value import LearningRate, NonNegative, Positive, WeightDecay, transform
from gdjax.value.diagnose import require_params


@transform(packable=True, shardable=True)
def scale_by_dowg(init_estim_sq_dist: Positive | None = None, eps: NonNegative = 1e-4, axis_name: Any = None):
    r"""Scale by the square of the largest distance gone over the root of the sum of squares weighted by it: DoWG.

    $\bar r^2 \leftarrow \max(\bar r^2, \lVert p - p_0 \rVert^2)$, $v \leftarrow v + \bar r^2 \lVert g \rVert^2$; the
    update is $\bar r^2 g / (\sqrt v + \epsilon)$. The norms are those of all leaves as one vector.

    State: `DoWGState(init_params, weighted_sq_norm_grads, estim_sq_dist)`, a copy of the parameters and 8 bytes.
    Source: Khaled et al. 2023, algorithm 1 (https://arxiv.org/abs/2305.16284). Differs from the paper: $\epsilon$.
    Where $\bar r \lVert g \rVert$ is beyond 7.2e16 (in float32), the gradient is scaled down to it.

    Args:
      init_estim_sq_dist: the first $\bar r^2$, in (0, inf]; by default `eps`, which must then not be 0.
      eps: $\epsilon$, in [0, inf).
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    Raises:
      ValueError: if the first $\bar r^2$ is 0, with which it would never move, or `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_dowg(0.25, eps=0.0)
    >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0])
    [0.3 0.4]
    """
    if init_estim_sq_dist is None and isinstance(eps, float) and eps == 0.0:
        raise ValueError("scale_by_dowg: give init_estim_sq_dist, or an eps above 0 in its place; got neither.")

    def init(params):
        dtype = sum_dtype(params)
        sq_dist = tree.fresh(eps if init_estim_sq_dist is None else init_estim_sq_dist, dtype)
        return DoWGState(tree.fresh(params), weighted_sq_norm_grads=jnp.zeros((), dtype), estim_sq_dist=sq_dist)

    def update(updates, state, params=None):
        require_params("scale_by_dowg", params)
        g, p, v, sq_dist = tree.widen((updates, params, state.weighted_sq_norm_grads, state.estim_sq_dist))
        gone, met = gone_and_met(way(state.init_params, p), tree.cast_like(g, p), axis_name)
        sq_dist = jnp.maximum(sq_dist, jnp.square(gone.norm()))
        met = ScaledNorm(jnp.sqrt(sq_dist) * met.root, met.scale)
        v, g = with_square(v, met.norm()), jax.tree.map(lambda g: clip_to_norm(g, met, largest(met)), g)
        root = jnp.where(v == 0, 0.0, jnp.sqrt(divisor(v)))  # squares may vanish where eps alone counts
        step = sq_dist / divisor(root + tree.scalar(eps, v))
        return tree.cast_like(scaled(g, step), updates), tree.cast_like(DoWGState(state.init_params, v, sq_dist), state)

    return init, update


@transform
def dowg(
    learning_rate: LearningRate = 1.0,
    init_estim_sq_dist: Positive | None = None,
    eps: NonNegative = 1e-4,
    weight_decay: WeightDecay | None = None,
    mask: Any = None,
    axis_name: Any = None,
):
    r"""DoWG: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_dowg`, of the gradient and $\lambda p$.

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
