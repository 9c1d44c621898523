"""DoG: scale by the largest distance from the start over the root of the sum of squares."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import DoGState

from gdjax import norms, tree
from gdjax.axes import AxisName
from gdjax.compose.chain import chain
from gdjax.squares import clip_to_norm
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
from gdjax.value import AccumulatorDType, LearningRate, NonNegative, Positive, Scalar, WeightDecay, transform
from gdjax.value.diagnose import require_params


@transform(packable=True, shardable=True, upcast=True)
def scale_by_dog(
    init_step: tuple[Literal["distance", "learning_rate", "heuristic"], Positive],
    eps: NonNegative = 1e-8,
    axis_name: AxisName = None,
):
    r"""Scale by the largest distance from the start over the root of the sum of squares: distance over gradients.

    $\bar r \leftarrow \max(\bar r, \lVert p - p_0 \rVert)$, $G \leftarrow G + \lVert g \rVert^2$; the update is
    $\bar r g / \sqrt{G + \epsilon}$. Norms are taken over all leaves as one vector.

    State: `DoGState(is_init_step, init_params, max_dist, sum_sq_norm_grads)`, a copy of the parameters and 9 bytes.
    Source: Ivgi et al. 2023, equation 1 (https://arxiv.org/abs/2302.12022). Differs from Optax: a first step given as a
    learning rate waits for the first nonzero gradient. In Optax a zero gradient uses it up, and later steps are zero.
    A gradient whose norm exceeds 7.2e16 (in float32) is scaled down to it, so that the sum stays finite.

    Args:
      init_step: the first step, a pair of a word and a number in (0, inf]. `"distance"`: the first $\bar r$;
        `"heuristic"`: the first $\bar r / (1 + \lVert p_0 \rVert)$; `"learning_rate"`: the factor of the first
        gradient, with $\bar r = 0$.
      eps: $\epsilon$, in [0, inf).
      axis_name: the axis over which leaves are sharded, as in `shard_map`. A leaf whose type is invariant over it is
        replicated; without such types (`vmap`, `pmap`, `check_vma=False`) every leaf counts as sharded.

    Raises:
      ValueError: if `init_step` is not such a pair, or if `update` is called without `params`.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx = gd.scale_by_dog(("distance", 0.5))
    >>> print(tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))[0])
    [0.3 0.4]
    """
    kind, size = _require_init_step(init_step)

    def init(params):
        r = {"distance": size, "learning_rate": 0.0}.get(kind)
        if r is None:
            norm = norms.global_norm(params, axis_name)
            r = tree.scalar(size, norm) * (1.0 + norm)
        dtype = sum_dtype(params)
        return DoGState(jnp.asarray(True), tree.fresh(params), tree.fresh(r, dtype), jnp.zeros((), dtype))

    def update(g, state, params=None):
        require_params("scale_by_dog", params)
        p = tree.widen(params)
        moved = displacement(state.init_params, p)
        distance, g_norm = distance_and_gradient_norms(moved, tree.cast_like(g, p), axis_name)
        r, sum_sq = jnp.maximum(state.max_dist, distance.norm()), add_square(state.sum_sq_norm_grads, g_norm.norm())
        g = jax.tree.map(lambda g: clip_to_norm(g, g_norm, largest_summable(g_norm)), g)
        step = r / jnp.sqrt(nonzero_or_one(sum_sq + tree.scalar(eps, sum_sq)))
        if kind == "learning_rate":
            step = jnp.where(state.is_init_step, tree.scalar(size, step), step)
        first = state.is_init_step & (g_norm.root == 0)
        return multiply_updates(g, step), DoGState(first, state.init_params, r, sum_sq)

    return init, update


def _require_init_step(init_step):
    match init_step:
        case ("distance" | "learning_rate" | "heuristic") as kind, size if not isinstance(size, str):
            return kind, size
    raise ValueError(
        "scale_by_dog: init_step must be a pair of 'distance', 'learning_rate' or 'heuristic' and a number, "
        f"got {init_step!r}."
    )


@transform(upcast=True)
def scale_by_distance_over_gradients(
    reps_rel: Positive = 1e-6,
    eps: NonNegative = 1e-8,
    param_dtype: AccumulatorDType = jnp.float32,
    global_scale: Scalar = 1.0,
):
    r"""Multiply each leaf by the distance it has moved, over the root of the sum of its squared gradients.

    $d \leftarrow \max(d, \lVert p - p_0 \rVert)$ from $d_0 = r (1 + \lVert p_0 \rVert)$,
    $G \leftarrow G + \lVert g \rVert^2$; the update is $c\, d / \sqrt{G + \epsilon}\; g$, with the norms of each leaf.

    State: `ScaleByDistanceOverGradientsState(max_dist, grad_sum_of_squares, init_params)`, 4 bytes per parameter, or
    those of `param_dtype`, and 8 per leaf. Source: Ivgi et al. 2023 (https://arxiv.org/abs/2302.12022). Differs from
    Optax, which gives a scalar leaf an update of shape (1,).

    Args:
      reps_rel: $r$, in (0, inf].
      eps: $\epsilon$, in [0, inf).
      param_dtype: the dtype of $p_0$ in the state.
      global_scale: $c$, any number.

    >>> import jax.numpy as jnp
    >>> import gdjax as gd
    >>> tx, p = gd.scale_by_distance_over_gradients(reps_rel=0.1), jnp.array([3.0, 4.0])
    >>> print(f"{tx.update(jnp.array([0.0, 2.0]), tx.init(p), p)[0][1]:.4f}")
    0.6000
    """

    def init(params):
        p_norms = norms.leaf_norms(tree.widen(params))
        state: Any = optax.scale_by_distance_over_gradients().init(())  # its class has no public name
        return state._replace(
            max_dist=jax.tree.map(lambda norm: tree.scalar(reps_rel, norm) * (1 + norm), p_norms),
            grad_sum_of_squares=jax.tree.map(lambda norm: jnp.zeros(1, norm.dtype), p_norms),
            init_params=tree.copies(params, param_dtype),
        )

    def update(g, state, params=None):
        require_params("scale_by_distance_over_gradients", params)
        moved = norms.leaf_norms(jax.tree.map(jnp.subtract, tree.widen(params), state.init_params))
        distances = jax.tree.map(jnp.maximum, state.max_dist, tree.cast_like(moved, state.max_dist))
        g_norms = norms.leaf_scaled_norms(g)
        squares = jax.tree.map(lambda s, norm: add_square(s, norm.norm()), state.grad_sum_of_squares, g_norms)
        g = jax.tree.map(lambda g, norm: clip_to_norm(g, norm, largest_summable(norm)), g, g_norms)
        new = state._replace(max_dist=distances, grad_sum_of_squares=squares)
        return jax.tree.map(step, g, distances, squares), new

    def step(g, distance, square):
        root = jnp.sqrt(jnp.sum(square) + tree.scalar(eps, square))
        return tree.scalar(global_scale * (distance / root), g) * g

    return init, update


@transform
def dog(
    learning_rate: LearningRate = 1.0,
    init_step: tuple[Literal["distance", "learning_rate", "heuristic"], Positive] = ("heuristic", 1e-6),
    eps: NonNegative = 1e-8,
    weight_decay: WeightDecay | None = None,
    mask: Mask | None = None,
    axis_name: AxisName = None,
):
    r"""DoG: $p \leftarrow p - \eta\, u$ with $u$ from `scale_by_dog`, applied to $g + \lambda p$.

    State: a copy of the parameters and 9 bytes.
    Source: Ivgi et al. 2023, equation 1 (https://arxiv.org/abs/2302.12022); they evaluate an average of the parameters.
    In bfloat16 the default first step may round to nothing, and then the parameters never move. Use
    `("heuristic", 0.01)` there.

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
