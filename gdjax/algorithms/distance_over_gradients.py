"""Layer-wise distance over gradients (LDoG): a step size for each leaf, and no learning rate."""

import jax
import jax.numpy as jnp
from optax._src.transform import ScaleByDistanceOverGradientsState  # it has no public name

from gdjax import norms, tree
from gdjax.squares import clip_to_norm
from gdjax.transforms.distance import largest, with_square
from gdjax.value import AccumulatorDType, NonNegative, Positive, Scalar, transform
from gdjax.value.diagnose import require_params


@transform
def scale_by_distance_over_gradients(
    reps_rel: Positive = 1e-6,
    eps: NonNegative = 1e-8,
    param_dtype: AccumulatorDType = jnp.float32,
    global_scale: Scalar = 1.0,
):
    r"""Multiply each leaf by the distance it has moved, over the root of the sum of its squared gradients.

    $d \leftarrow \max(d, \lVert p - p_0 \rVert)$ from $d_0 = r (1 + \lVert p_0 \rVert)$,
    $G \leftarrow G + \lVert g \rVert^2$; the update is $c\, d / \sqrt{G + \epsilon}\; g$, with norms of one leaf each.

    State: `ScaleByDistanceOverGradientsState(max_dist, grad_sum_of_squares, init_params)`, 4 bytes a parameter, or
    those of `param_dtype`, and 8 a leaf. Source: Ivgi et al. 2023 (https://arxiv.org/abs/2302.12022). Differs from
    Optax, which gives a scalar leaf an update of shape (1,).

    Args:
      reps_rel: $r$, in (0, inf].
      eps: $\epsilon$, in [0, inf).
      param_dtype: the dtype in which $p_0$ is kept.
      global_scale: $c$, any number.

    >>> import gdjax as gd
    >>> tx, p = gd.scale_by_distance_over_gradients(reps_rel=0.1), jnp.array([3.0, 4.0])
    >>> print(f"{tx.update(jnp.array([0.0, 2.0]), tx.init(p), p)[0][1]:.4f}")
    0.6000
    """

    def init(params):
        lengths = norms.leaf_norms(tree.widen(params))
        return ScaleByDistanceOverGradientsState(
            jax.tree.map(lambda length: tree.scalar(reps_rel, length) * (1 + length), lengths),
            jax.tree.map(lambda length: jnp.zeros(1, length.dtype), lengths),
            tree.copies(params, param_dtype),
        )

    def update(updates, state, params=None):
        require_params("scale_by_distance_over_gradients", params)
        g = tree.widen(updates)
        gone = norms.leaf_norms(jax.tree.map(jnp.subtract, tree.widen(params), tree.widen(state.init_params)))
        distances = jax.tree.map(jnp.maximum, state.max_dist, tree.cast_like(gone, state.max_dist))
        met = norms.leaf_scaled_norms(g)
        squares = jax.tree.map(lambda s, length: with_square(s, length.norm()), state.grad_sum_of_squares, met)
        g = jax.tree.map(lambda g, length: clip_to_norm(g, length, largest(length)), g, met)
        scaled = jax.tree.map(step, g, distances, squares)
        kept = ScaleByDistanceOverGradientsState(
            distances, tree.cast_like(squares, state.grad_sum_of_squares), state.init_params
        )
        return tree.cast_like(scaled, updates), kept

    def step(g, distance, square):
        length = jnp.sqrt(jnp.sum(square) + tree.scalar(eps, square))
        return tree.scalar(global_scale * (distance / length), g) * g

    return init, update
