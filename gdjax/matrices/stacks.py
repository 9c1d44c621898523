"""Leaves of one matrix shape as one stack: who lies in it, how it is made and how it is taken apart."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import axes
from gdjax.matrices.view import View

CAP = 2**28
"""Bytes of a stack at the most, unless one matrix, or one for every member, is more."""


class Matrices(NamedTuple):
    """The matrices of one leaf."""

    view: View
    """Of the leaf, or of the part of it that a member has."""
    shape: tuple[int, int]
    """Of a whole matrix."""
    cut: int | None
    """Which of a stack's dimensions a member has a part of, 1 or 2; none where it has whole matrices."""
    alone: bool
    """Whether these matrices are this member's own, and its work."""
    first: int
    """How many matrices the leaves before have, of all members."""


class Slice(NamedTuple):
    """Some of the matrices of a leaf."""

    leaf: int
    start: int
    stop: int


class Group(NamedTuple):
    """A stack: matrices of one shape, dtype and division, rows never more than columns."""

    shape: tuple[int, int]
    """Of a whole matrix in the stack."""
    dtype: Any
    cut: int | None
    """Along which dimension of the stack a member has parts, if it has."""
    alone: bool
    turned: bool
    """Whether all its matrices are turned; false where a stack may hold both."""
    slices: tuple[Slice, ...]

    @property
    def number(self) -> int:
        """How many matrices."""
        return sum(own.stop - own.start for own in self.slices)


def numbers(group: Group, found: Mapping[int, Matrices], members: int) -> np.ndarray:
    """The numbers of a stack's matrices among all of the tree, for every member: `[members, count]`."""

    def of(own: Slice, member: int) -> np.ndarray:
        leaf = found[own.leaf]
        return leaf.first + np.arange(own.start, own.stop) + member * leaf.alone * leaf.view.sizes()[0]

    return np.stack([np.concatenate([of(own, member) for own in group.slices]) for member in range(members)])


def groups(
    found: Mapping[int, Matrices], leaves: Sequence[jax.Array], members: int, oriented: bool, cap: int = CAP
) -> list[Group]:
    """Matrices of leaves, by their places, in stacks of so many bytes at the most.

    A stack that members share has a multiple of their number in it, where it is cut short.
    """
    kinds: dict[Any, list[Slice]] = {}
    for leaf, own in found.items():
        turned = _turned(own)
        shape = own.shape[::-1] if turned else own.shape
        cut = own.cut and (3 - own.cut if turned else own.cut)
        key = shape, leaves[leaf].dtype, cut, own.alone, turned and oriented, axes.varying_axes(leaves[leaf])
        kinds.setdefault(key, []).append(Slice(leaf, 0, own.view.sizes()[0]))
    stacks = []
    for (shape, dtype, cut, alone, turned, _), slices in kinds.items():
        most = max(cap // (shape[0] * shape[1] * dtype.itemsize), 1)
        most = most if alone else max(most - most % members, members)
        stacks += [Group(shape, dtype, cut, alone, turned, part) for part in _parted(slices, most)]
    return stacks


def _turned(own: Matrices) -> bool:
    return own.shape[0] > own.shape[1]


def _parted(slices: Sequence[Slice], most: int) -> list[tuple[Slice, ...]]:
    """Slices one after the other, cut where so many matrices are together."""
    parts: list[list[Slice]] = [[]]
    left = most
    for leaf, start, stop in slices:
        while start < stop:
            taken = min(stop - start, left)
            parts[-1].append(Slice(leaf, start, start + taken))
            start, left = start + taken, left - taken
            if not left:
                parts, left = [*parts, []], most
    return [tuple(part) for part in parts if part]


def stacked(group: Group, found: Mapping[int, Matrices], leaves: Sequence[jax.Array]) -> jax.Array:
    """The stack `[count, m, n]` of a group, of a member's parts of its matrices where it is cut."""

    def some(own: Slice) -> jax.Array:
        stack = found[own.leaf].view.matrices(leaves[own.leaf])[own.start : own.stop]
        return stack.mT if _turned(found[own.leaf]) else stack

    parts = [some(own) for own in group.slices]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def taken_apart(
    made: Sequence[Group], found: Mapping[int, Matrices], stacks: Sequence[jax.Array], leaves: Sequence[jax.Array]
) -> list[jax.Array]:
    """The leaves of stacks; one without a matrix as it is."""
    pieces: dict[int, list[jax.Array]] = {}
    for group, stack in zip(made, stacks, strict=True):
        at = 0
        for own in group.slices:
            size = own.stop - own.start
            piece = stack[at : at + size]
            pieces.setdefault(own.leaf, []).append(piece.mT if _turned(found[own.leaf]) else piece)
            at += size
    whole = {i: found[i].view.leaf(jnp.concatenate(own)) for i, own in pieces.items()}
    return [whole.get(i, leaf) for i, leaf in enumerate(leaves)]
