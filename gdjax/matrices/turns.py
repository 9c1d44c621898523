"""Work on the matrices of stacks that is dear, may fail, and need not be done at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax.matrices.shares import Piece


def renewed(f: Callable[[Any, Any], Any], read: Any, kept: Any, failures: jax.Array) -> tuple[Any, jax.Array]:
    """What is kept of matrices, made anew of what is read; what is not finite is not kept, and counts as a failure."""
    new = f(read, kept)
    if not jax.tree.leaves(new):
        return kept, failures
    fine = jnp.stack([_finite(x) for x in jax.tree.leaves(new)]).all(axis=0)
    good = jax.tree.map(lambda x, old: jnp.where(_like(fine, x), x, old), new, kept)
    return good, failures + (~fine).astype(failures.dtype)


def in_turn(
    f: Callable[[Any, Any], Any], read: Any, kept: Any, failures: jax.Array, step: jax.Array, every: int, piece: Piece
) -> tuple[Any, jax.Array]:
    """What is kept of a stack, made anew for the matrices whose turn a step is; at other steps nothing is computed.

    In so many steps every matrix has one turn, told by its number among all of the tree: however stacks are made and
    divided, it is the same.

    Args:
      f: of what is read and what is kept of some matrices, what to keep.
      read: a tree of arrays `[count, ...]`.
      kept: another.
      failures: how often it failed, int32 of shape (count,).
      step: the number of this one.
      every: the steps between two turns of a matrix, at least 1; number 0 has its turn where they divide `step`.
      piece: whose matrices they are.
    """
    most = max(np.bincount(of[of >= 0] % every, minlength=1).max() for of in piece.of_all)
    due = piece.numbers % every == step % every
    if every == 1 or len(failures) == 1:
        return lax.cond(due.any(), lambda *of: renewed(f, *of), lambda _, *of: of, read, kept, failures)
    first = jnp.argsort(~due, stable=True)[:most]
    places = jnp.where(due[first], first, first[0])  # one that is due stands for those that are fewer
    chosen = jax.tree.map(lambda x: x[places], (read, kept, failures))
    moved = lax.cond(due.any(), lambda *of: renewed(f, *of), lambda _, *of: of, *chosen)
    return jax.tree.map(lambda x, new: x.at[places].set(new), (kept, failures), moved)


def _finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))


def _like(flags: jax.Array, x: jax.Array) -> jax.Array:
    return flags.reshape(-1, *[1] * (x.ndim - 1))
