"""DoG: scale by the largest distance gone over the root of the sum of squares."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from optax._src.transform import ScaleByDistanceOverGradientsState  # it has no public name
from optax.contrib import DoGState

from gdjax import norms, tree
from gdjax.compose.chain import chain
from gdjax.squares import clip_to_norm
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.distance import divisor, gone_and_met, largest, sum_dtype, way, with_square
from gdjax.transforms.scaling import identity, scale_by_learning_rate, scaled
from gdjax.value import AccumulatorDType, LearningRate, NonNegative, Positive, Scalar, WeightDecay, transform
from gdjax.value.diagnose import require_params


@transform(packable=True, shardable=True)
def scale_by_dog(
    init_step: tuple[Literal["distance", "learning_rate", "heuristic"], Positive],
    eps: NonNegative = 1e-8,
    axis_name: Any = None,
):
    r"""Scale by the largest distance gone over the root of the sum of squares: distance over gradients, DoG.

    $\bar r \leftarrow \max(\bar r, \lVert p - p_0 \rVert)$, $G \leftarrow G + \lVert g \rVert^2$; the update is
    $\bar r g / \sqrt{G + \epsilon}$. The norms are those of all leaves as one vector.

    State: `DoGState(is_init_step, init_params, max_dist, sum_sq_norm_grads)`, a copy of the parameters and 9 bytes.
    Source: Ivgi et al. 2023, equation 1 (https://arxiv.org/abs/2302.12022). Differs from Optax: a first step given as a
    learning rate waits for the first gradient that is not zero; there it is spent on any, and all others are zero.
    A gradient whose norm is beyond 7.2e16 (in float32) is scaled down to it, so that the sum stays finite.

    Args:
      init_step: what the first step is made of, a pair of a word and a number in (0, inf]. `"distance"`: the first
        $\bar r$; `"heuristic"`: the first $\bar r / (1 + \lVert p_0 \rVert)$; `"learning_rate"`: the factor of the
        first gradient itself, with $\bar r = 0$.
      eps: $\epsilon$, in [0, inf).
      axis_name: the axis over which leaves are divided, as in `shard_map`; one that its type says is the same on all
        members is whole, and where no type tells (`vmap`, `pmap`, `check_vma=False`) none is.

    Raises:
      ValueError: if `init_step` is no such pair, or `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_dog(("distance", 0.5))
    >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0])
    [0.3 0.4]
    """
    kind, size = _pair(init_step)

    def init(params):
        r = {"distance": size, "learning_rate": 0.0}.get(kind)
        if r is None:
            norm = norms.global_norm(params, axis_name)
            r = tree.scalar(size, norm) * (1.0 + norm)
        dtype = sum_dtype(params)
        return DoGState(jnp.asarray(True), tree.fresh(params), tree.fresh(r, dtype), jnp.zeros((), dtype))

    def update(updates, state, params=None):
        require_params("scale_by_dog", params)
        g, p, r, sum_sq = tree.widen((updates, params, state.max_dist, state.sum_sq_norm_grads))
        gone, met = gone_and_met(way(state.init_params, p), tree.cast_like(g, p), axis_name)
        r, sum_sq = jnp.maximum(r, gone.norm()), with_square(sum_sq, met.norm())
        g = jax.tree.map(lambda g: clip_to_norm(g, met, largest(met)), g)
        step = r / jnp.sqrt(divisor(sum_sq + tree.scalar(eps, sum_sq)))
        if kind == "learning_rate":
            step = jnp.where(state.is_init_step, tree.scalar(size, step), step)
        first = state.is_init_step & (met.root == 0)
        new = tree.cast_like(DoGState(first, state.init_params, r, sum_sq), state)
        return tree.cast_like(scaled(g, step), updates), new

    return init, update


def _pair(init_step):
    match init_step:
        case ("distance" | "learning_rate" | "heuristic") as kind, size if not isinstance(size, str):
            return kind, size
    raise ValueError(
        "scale_by_dog: init_step must be a pair of 'distance', 'learning_rate' or 'heuristic' and a number, "
        f"got {init_step!r}."
    )


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

    >>> import jax.numpy as jnp
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


@transform
def dog(
    learning_rate: LearningRate = 1.0,
    init_step: tuple[Literal["distance", "learning_rate", "heuristic"], Positive] = ("heuristic", 1e-6),
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay | None = None,
    mask: Any = None,
    axis_name: Any = None,
):
    r"""DoG: $p \leftarrow p - \eta\, u$ with $u$ of `scale_by_dog`, of the gradient and $\lambda p$.

    State: a copy of the parameters and 9 bytes. Source: Ivgi et al. 2023, equation 1 (https://arxiv.org/abs/2302.12022);
    they take a mean of the parameters over the steps as the result. In bfloat16 the default first step may be rounded
    away, and then no way is ever gone: take one of `("heuristic", 0.01)`.

    Args:
      learning_rate: $\eta$, a number or a schedule of it.
      init_step, eps, axis_name: as in `scale_by_dog`.
      weight_decay, mask: $\lambda$ and which leaves decay, as in `add_decayed_weights`; `None` for no decay.

    >>> import gdjax as gd
    >>> [part.factory.__name__ for part in gd.expand(gd.dog(weight_decay=0.1)).transforms]
    ['add_decayed_weights', 'scale_by_dog', 'scale_by_learning_rate']
    """
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dog(init_step, eps, axis_name),
        scale_by_learning_rate(learning_rate),
    )
