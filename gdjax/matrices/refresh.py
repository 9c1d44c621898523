"""Refresh expensive state of matrices, such as inverse roots, only every so many steps, and tolerate failures."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gdjax.matrices.assignment import MatrixBatch
from gdjax.tree import Tree


def refresh_due(
    f: Callable[[Any, Any], Any],
    inputs: Tree,
    state: Tree,
    failures: jax.Array,
    step: jax.Array,
    every: int,
    batch: MatrixBatch,
    begin: Callable[[Any, Any], Any] | None = None,
) -> tuple[Tree, jax.Array]:
    """Return the state of a batch, refreshed for the matrices that are due at a step, and the counts of failures.

    In `every` steps each matrix is due once, so that no step pays for all. The number of a matrix among all matrices of
    the tree decides at which step: it does not depend on how stacks are made or assigned to devices. If no matrix is
    due, nothing is computed. A result that is not finite is discarded, and counts as a failure.

    Args:
      f: `f(inputs, state)` returns the new state of some matrices.
      inputs: a tree of arrays `[count, ...]`.
      state: a tree of arrays `[count, ...]`.
      failures: the number of failures of each matrix, int32 of shape (count,).
      step: the number of the step.
      every: the steps between two refreshes of a matrix, at least 1. Matrix 0 is due where `every` divides `step`.
      batch: the matrices.
      begin: `begin(inputs, state)` returns the state of all matrices at step 0, when none is due. By default step 0 is
        like any other.
    """
    residues = [[n % every for n in numbers if n >= 0] for numbers in batch.numbers_of_devices]
    most = max(max(map(of_device.count, of_device), default=0) for of_device in residues)
    due = batch.numbers % every == step % every

    def keep(inputs, state, failures):
        return state, failures

    def refresh(*stack):
        if every == 1 or len(failures) == 1:
            return _refreshed(f, *stack)
        first = jnp.argsort(~due, stable=True)[:most]
        places = jnp.where(due[first], first, first[0])  # if fewer are due, the first one fills the rest
        refreshed = _refreshed(f, *jax.tree.map(lambda x: x[places], stack))
        return jax.tree.map(lambda x, new: x.at[places].set(new), stack[1:], refreshed)

    branches, branch = [keep, refresh], due.any().astype(int)
    if begin is not None:
        branches, branch = [*branches, functools.partial(_refreshed, begin)], jnp.where(step == 0, 2, branch)
    return lax.switch(branch, branches, inputs, state, failures)


def _refreshed(f: Callable[[Any, Any], Any], inputs: Any, state: Any, failures: jax.Array) -> tuple[Any, jax.Array]:
    """Return `f(inputs, state)` where it is finite and the old state elsewhere, and the counts of failures."""
    new = f(inputs, state)
    if not jax.tree.leaves(new):
        return state, failures
    finite = jnp.stack([_is_finite(x) for x in jax.tree.leaves(new)]).all(axis=0)
    chosen = jax.tree.map(lambda x, old: jnp.where(_broadcast(finite, x), x, old), new, state)
    return chosen, failures + (~finite).astype(failures.dtype)


def _is_finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))


def _broadcast(flags: jax.Array, x: jax.Array) -> jax.Array:
    return flags.reshape(-1, *[1] * (x.ndim - 1))
