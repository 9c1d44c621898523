"""Work on the matrices of stacks that is dear, may fail, and need not be done at every step."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gdjax.matrices.shares import Piece


def in_turn(
    f: Callable[[Any, Any], Any],
    read: Any,
    kept: Any,
    failures: jax.Array,
    step: jax.Array,
    every: int,
    piece: Piece,
    begin: Callable[[Any, Any], Any] | None = None,
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
      begin: what to keep of all matrices at step 0, when none has its turn; by default that step is like others.
    """
    turns = [[n % every for n in of if n >= 0] for of in piece.of_all]
    most = max(max(map(of.count, of), default=0) for of in turns)
    due = piece.numbers % every == step % every

    def none(read, kept, failures):
        return kept, failures

    def some(*stack):
        if every == 1 or len(failures) == 1:
            return _renewed(f, *stack)
        first = jnp.argsort(~due, stable=True)[:most]
        places = jnp.where(due[first], first, first[0])  # one that is due stands for those that are fewer
        moved = _renewed(f, *jax.tree.map(lambda x: x[places], stack))
        return jax.tree.map(lambda x, new: x.at[places].set(new), stack[1:], moved)

    branches, branch = [none, some], due.any().astype(int)
    if begin is not None:
        branches, branch = [*branches, functools.partial(_renewed, begin)], jnp.where(step == 0, 2, branch)
    return lax.switch(branch, branches, read, kept, failures)


def _renewed(f: Callable[[Any, Any], Any], read: Any, kept: Any, failures: jax.Array) -> tuple[Any, jax.Array]:
    """What is kept of matrices, made anew of what is read; what is not finite is not kept, and counts as a failure."""
    new = f(read, kept)
    if not jax.tree.leaves(new):
        return kept, failures
    fine = jnp.stack([_finite(x) for x in jax.tree.leaves(new)]).all(axis=0)
    good = jax.tree.map(lambda x, old: jnp.where(_like(fine, x), x, old), new, kept)
    return good, failures + (~fine).astype(failures.dtype)


def _finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))


def _like(flags: jax.Array, x: jax.Array) -> jax.Array:
    return flags.reshape(-1, *[1] * (x.ndim - 1))
