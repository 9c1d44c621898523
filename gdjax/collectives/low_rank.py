"""The mean of gradients over an axis, of low rank: PowerSGD."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import axes, tree
from gdjax.collectives.together import from_reals, further, groups, number, reals

_matmul = functools.partial(jnp.matmul, precision="highest")  # what it rounds away is in no error


class LowRankMeanState(NamedTuple):
    """What was left out, and what the next step starts from; `None` for leaves that are averaged as they are."""

    error: Any
    """$e_i$, what this member's own gradients lost, shaped like the parameters."""
    q: Any
    """$Q$, the same on all members, of shape (n, rank) for a leaf of m by n."""


def low_rank_mean(axis_name: Any, rank: int, seed: int) -> tuple[Any, Any]:
    """`(init, update)` of `compressed_mean(rank=)`, of leaves in their dtypes of accumulation."""

    def init(params):
        leaves, treedef = jax.tree.flatten(params)
        key, errors, qs = jax.random.key(seed), [], []
        for place, x in enumerate(leaves):
            low = is_compressed(x, rank)
            errors.append(tree.accumulators(x, 0) if low else None)
            qs.append(_start(jax.random.fold_in(key, place), x) if low else None)
        return LowRankMeanState(axes.mark_varying(treedef.unflatten(errors), axis_name), treedef.unflatten(qs))

    def _start(key, x):
        q = jax.random.normal(key, (_sides(x)[1], rank), jnp.finfo(tree.wide(jnp.result_type(x))).dtype)
        return axes.cast_varying(q, further(x, axis_name))

    def update(updates, state):
        leaves, treedef = jax.tree.flatten(updates)
        errors, qs = treedef.flatten_up_to(state.error), treedef.flatten_up_to(state.q)
        for places in groups(leaves, axis_name):
            plain = [place for place in places if qs[place] is None]
            low = [place for place in places if qs[place] is not None]
            own = [leaves[place] + errors[place] for place in low]
            whole, found, finite = _approximated(own, [qs[i] for i in low], [leaves[i] for i in plain], axis_name)
            for place, mean in zip(plain, whole, strict=True):
                leaves[place] = mean
            for place, (mean, error, q) in zip(low, found, strict=True):
                leaves[place] = mean
                errors[place] = jnp.where(finite, error, errors[place])
                qs[place] = jnp.where(finite, q, qs[place])
        return treedef.unflatten(leaves), LowRankMeanState(treedef.unflatten(errors), treedef.unflatten(qs))

    return init, update


def _approximated(low, qs, plain, axis_name):
    """The means of plain leaves; of each other the mean, what its own lost, and the next $Q$; whether all is finite."""
    matrices = [reals(x).reshape(_sides(x)) for x in low]
    products = [_matmul(x, q) for x, q in zip(matrices, qs, strict=True)]
    (ps, whole), finite = _means((products, [reals(x) for x in plain]), axis_name)
    bases = [jnp.linalg.qr(p)[0] for p in ps]
    own_qs = [_matmul(x.T, basis) for x, basis in zip(matrices, bases, strict=True)]
    new_qs, finite_too = _means(own_qs, axis_name)
    found = [
        (from_reals(_matmul(basis, q.T), x), x - from_reals(_matmul(basis, own_q.T), x), q)
        for x, basis, own_q, q in zip(low, bases, own_qs, new_qs, strict=True)
    ]
    return [from_reals(mean, x) for mean, x in zip(whole, plain, strict=True)], found, finite & finite_too


def is_compressed(x: Any, rank: int) -> bool:
    """Whether a leaf is a matrix that is larger than its approximation."""
    m, n = _sides(x)
    return jnp.ndim(x) >= 2 and (m + n) * rank < m * n


def _sides(x):
    """The sides of a leaf as a matrix of real numbers: its first axis by all others."""
    first = (*jnp.shape(x), 1)[0]
    return first, number(x) // max(first, 1)


def _means(arrays, axis_name):
    """The means of a tree of real arrays over an axis, by one sum of all, and whether all are finite."""
    leaves, treedef = jax.tree.flatten(arrays)
    if not leaves:
        return arrays, jnp.asarray(True)
    dtype = jnp.result_type(*leaves)
    together = jnp.concatenate([x.astype(dtype).ravel() for x in leaves])
    mean = lax.psum(together, axis_name) / axes.size(axis_name)
    cut = jnp.split(mean, np.cumsum([x.size for x in leaves])[:-1])
    shaped = [part.reshape(x.shape).astype(x.dtype) for part, x in zip(cut, leaves, strict=True)]
    return treedef.unflatten(shaped), jnp.isfinite(mean).all()
