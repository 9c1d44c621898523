"""Steps as long as the way that was gone, over the gradients that were met: no learning rate to tune."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import DoGState, DoWGState

from gdjax import axes, norms, tree
from gdjax.squares import ScaledNorm, clip_to_norm, largest_squarable, scaled_norms
from gdjax.transforms.moments import TERMS
from gdjax.transforms.scaling import scaled
from gdjax.value import NonNegative, Positive, transform
from gdjax.value.diagnose import require_params


@transform(flat=True, parts=True)
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
        gone, met = _gone_and_met(way(state.init_params, p), tree.cast_like(g, p), axis_name)
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


@transform(flat=True, parts=True)
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
        gone, met = _gone_and_met(way(state.init_params, p), tree.cast_like(g, p), axis_name)
        sq_dist = jnp.maximum(sq_dist, jnp.square(gone.norm()))
        met = ScaledNorm(jnp.sqrt(sq_dist) * met.root, met.scale)
        v, g = with_square(v, met.norm()), jax.tree.map(lambda g: clip_to_norm(g, met, largest(met)), g)
        root = jnp.where(v == 0, 0.0, jnp.sqrt(divisor(v)))  # squares may vanish where eps alone counts
        step = sq_dist / divisor(root + tree.scalar(eps, v))
        return tree.cast_like(scaled(g, step), updates), tree.cast_like(DoWGState(state.init_params, v, sq_dist), state)

    return init, update


def sum_dtype(params):
    """The dtype of sums over all leaves: the widest real one in which they are accumulated."""
    found = [jnp.finfo(tree.wide(jnp.result_type(p))).dtype for p in jax.tree.leaves(params)]
    return max(found, key=lambda dtype: dtype.itemsize, default=np.dtype("float32"))


def way(start, end):
    """The way of every leaf from one tree to another, narrow ones widened before they are subtracted."""
    start, end = tree.widen((start, end))
    return jax.tree.map(jnp.subtract, tree.cast_like(end, start), start)


def _gone_and_met(gone, met, axis_name):
    """Return the lengths of a distance and of a gradient, with one collective.

    Each leaf of the distance is summed as it is computed: a length at several scales would write it to memory.
    """
    groups = jax.tree.leaves(gone), jax.tree.leaves(met)
    over = [[axes.spread(x, axis_name) for x in of] for of in groups]
    sizes = [norms.safe_sqrt(jnp.sum(tree.abs_sq(x))) for x in groups[0]]
    return scaled_norms([sizes, groups[1]], over)


def with_square(total, size):
    """Add a square to a sum, which has room for 65,536 of the largest and stays finite after them."""
    bounded = jnp.minimum(size, largest_squarable(total.dtype, TERMS))
    return jnp.minimum(total + jnp.square(bounded), jnp.finfo(total.dtype).max)


def largest(length):
    """Return the bound on a norm whose square is added to a sum."""
    return largest_squarable(length.root.dtype, TERMS)


def added(f, *trees):
    """The sum of `f` over the elements of every leaf."""
    return jax.tree.map(lambda *leaves: jnp.sum(f(*leaves)), *trees)


def divisor(x):
    """`x`, or 1 where it is 0: nothing was summed yet, and what is divided by it is 0 as well."""
    return jnp.where(x == 0, 1.0, x)
