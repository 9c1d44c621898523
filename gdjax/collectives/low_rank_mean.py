"""Mean of gradients over an axis as low-rank matrices, with error feedback: PowerSGD."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gdjax import axes, tree
from gdjax.collectives.compression import (
    compressing_transform,
    from_reals,
    group_by_other_axes,
    other_axes,
    real_count,
    to_reals,
)
from gdjax.collectives.local_grads import require_axis_name
from gdjax.raveling import ravel_arrays
from gdjax.value import transform
from gdjax.value.diagnose import require_count

_matmul = functools.partial(jnp.matmul, precision="highest")  # error feedback does not see what a product rounds away


class LowRankMeanState(NamedTuple):
    """State of `low_rank_mean`; `None` for leaves that are averaged without compression."""

    error: optax.Updates
    """$e_i$, what the approximation of this device's gradients lost, shaped like the parameters, float32 or wider."""
    q: optax.Updates
    """$Q$, the same on all devices, of shape (n, rank) for a leaf of m by n."""


@transform(takes_local_grads=True)
def low_rank_mean(axis_name: axes.AxisName, rank: int, *, seed: int = 0):
    r"""Take the mean of gradients over a named axis as low-rank matrices, and add what is lost to the next gradient.

    A leaf of two or more axes is a matrix, its first axis by all others, $m$ by $n$. It is approximated where
    $(m + n) r < m n$. With $M_i = g_i + e_i$ on device $i$ of $N$,
    $\hat P = \mathrm{orth}(\frac{1}{N} \sum_i M_i Q)$ and $Q_i = M_i^\top \hat P$:
    $e_i \leftarrow M_i - \hat P Q_i^\top$, $Q \leftarrow \frac{1}{N} \sum_i Q_i$; the update is $\hat P Q^\top$. Every
    other leaf gets its plain mean.

    By this error feedback the sum of the updates stays within a bound of the sum of the true means. All devices get the
    same updates, bit for bit. A complex element is two real numbers. If a mean is not finite, neither is the update,
    and the state stays as it was. As in `mean_over`, `update(..., weight=w)` takes the weighted mean.

    On the wire: two all-reduces, of $4 (m + n) r$ bytes a matrix in total, and 4 a number of the other leaves.

    State: `LowRankMeanState(error, q)`, 4 bytes a parameter and $4 n r$ a matrix (twice that in float64). The error is
    per-device: call `init` within the axis too.
    Source: Vogels et al. 2019, algorithms 1 and 2 (https://arxiv.org/abs/1905.13727). Differs from their code: $e_i$ is
    what the device's own gradient lost, not its distance from the mean, which would grow without bound. The updates
    are the same.

    Args:
      axis_name: the axis of `vmap`, `pmap` or `shard_map` over which gradients are per-device, or a tuple of names.
      rank: $r$, an integer of at least 1.
      seed: an integer, the seed of the normal numbers that $Q$ starts from.

    Raises:
      ValueError: if the axis is not bound; if the type of a gradient is invariant over the axis, as in `mean_over`, or
        sharded over an Explicit axis.

    >>> import jax, gdjax as gd, jax.numpy as jnp
    >>> tx = gd.low_rank_mean("data", rank=1)
    >>> def mean(g):
    ...     return tx.update(g, tx.init(g))[0]
    >>> g = jnp.outer(jnp.arange(3.0), jnp.ones(4))
    >>> print(jax.vmap(mean, axis_name="data")(jnp.stack([g, 3 * g]))[0, :, 0].round(3))
    [0. 2. 4.]
    """
    axis_name = require_axis_name("low_rank_mean", axis_name)
    require_count("low_rank_mean", "rank", rank)
    if type(seed) is not int:
        raise ValueError(f"low_rank_mean: seed must be an integer, got {seed!r}.")

    def init(params):
        leaves, treedef = jax.tree.flatten(params)
        key, errors, qs = jax.random.key(seed), [], []
        for place, x in enumerate(leaves):
            compressed = is_compressed(x, rank)
            errors.append(tree.accumulators(x, 0) if compressed else None)
            qs.append(start(jax.random.fold_in(key, place), x) if compressed else None)
        return LowRankMeanState(axes.mark_varying(treedef.unflatten(errors), axis_name), treedef.unflatten(qs))

    def start(key, x):
        q = jax.random.normal(key, (_sides(x)[1], rank), jnp.finfo(tree.wide(jnp.result_type(x))).dtype)
        return axes.cast_varying(q, other_axes(x, axis_name))

    def mean(updates, state):
        leaves, treedef = jax.tree.flatten(updates)
        errors, qs = treedef.flatten_up_to(state.error), treedef.flatten_up_to(state.q)
        for places in group_by_other_axes(leaves, axis_name):
            plain = [place for place in places if qs[place] is None]
            compressed = [place for place in places if qs[place] is not None]
            corrected = [leaves[place] + errors[place] for place in compressed]
            plain_means, approximations, finite = _low_rank_means(
                corrected, [qs[i] for i in compressed], [leaves[i] for i in plain], axis_name
            )
            for place, leaf in zip(plain, plain_means, strict=True):
                leaves[place] = leaf
            for place, (leaf, error, q) in zip(compressed, approximations, strict=True):
                leaves[place] = leaf
                errors[place] = jnp.where(finite, error, errors[place])
                qs[place] = jnp.where(finite, q, qs[place])
        return treedef.unflatten(leaves), LowRankMeanState(treedef.unflatten(errors), treedef.unflatten(qs))

    return compressing_transform("low_rank_mean", axis_name, init, mean)


def _low_rank_means(compressed, qs, plain, axis_name):
    """Return the means of plain leaves, `(mean, error, new Q)` of each other leaf, and whether all is finite."""
    matrices = [to_reals(x).reshape(_sides(x)) for x in compressed]
    products = [_matmul(x, q) for x, q in zip(matrices, qs, strict=True)]
    (ps, plain_means), finite = _means((products, [to_reals(x) for x in plain]), axis_name)
    bases = [jnp.linalg.qr(p)[0] for p in ps]
    local_qs = [_matmul(x.T, basis) for x, basis in zip(matrices, bases, strict=True)]
    new_qs, finite_qs = _means(local_qs, axis_name)
    approximations = [
        (from_reals(_matmul(basis, q.T), x), x - from_reals(_matmul(basis, local_q.T), x), q)
        for x, basis, local_q, q in zip(compressed, bases, local_qs, new_qs, strict=True)
    ]
    means = [from_reals(mean, x) for mean, x in zip(plain_means, plain, strict=True)]
    return means, approximations, finite & finite_qs


def is_compressed(x: jax.Array, rank: int) -> bool:
    """Return whether a leaf is a matrix that is larger than its approximation."""
    m, n = _sides(x)
    return jnp.ndim(x) >= 2 and (m + n) * rank < m * n


def _sides(x):
    """Return the sides of a leaf as a matrix of real numbers: its first axis by all others."""
    first = (*jnp.shape(x), 1)[0]
    return first, real_count(x) // max(first, 1)


def _means(arrays, axis_name):
    """Return the means over an axis of a tree of real arrays, by one sum, and whether all are finite."""
    leaves, treedef = jax.tree.flatten(arrays)
    if not leaves:
        return arrays, jnp.asarray(True)
    dtype = jnp.result_type(*leaves)
    flat, split = ravel_arrays([x.astype(dtype) for x in leaves])
    mean = lax.psum(flat, axis_name) / axes.size(axis_name)
    means = [part.astype(x.dtype) for part, x in zip(split(mean), leaves, strict=True)]
    return treedef.unflatten(means), jnp.isfinite(mean).all()
