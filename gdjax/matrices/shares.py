"""Who of the members of an axis works on which matrices."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import axes
from gdjax.matrices.stacks import Group, Matrices, numbers


class Share(NamedTuple):
    """Who works on the matrices of a stack: as many each as go evenly, and those that are left one each to some."""

    each: int
    owners: tuple[int, ...]
    """The members that have one of the last, one after the other."""

    def slots(self) -> int:
        """The most that a member has."""
        return self.each + bool(self.owners)


def shares(made: Sequence[Group], members: int) -> list[Share]:
    """The share of each stack: the dearest first, and what is left to those that have least so far.

    That is the rule of the longest processing time (Graham 1969, theorem 2, https://doi.org/10.1137/0117039), over all
    stacks; a matrix of m by n costs $m^2 (m + n)$.
    """
    loads = np.zeros(members)
    found: dict[int, Share] = {}

    def cost(i: int) -> int:
        m, n = made[i].shape
        return m * m * (m + n)

    for i in sorted(range(len(made)), key=cost, reverse=True):
        if made[i].alone:
            found[i] = Share(made[i].number, ())
            continue
        each, rest = divmod(made[i].number, members)
        owners = np.argsort(loads, kind="stable")[:rest]
        loads += cost(i) * each
        loads[owners] += cost(i)
        found[i] = Share(each, tuple(map(int, owners)))
    return [found[i] for i in range(len(made))]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Piece:
    """What a member works on at once: its even share of a stack, or the one of the last that it may have.

    A pytree of `numbers`, all else static: what is compiled of one serves every step.
    """

    group: Group = dataclasses.field(metadata={"static": True})
    number: int = dataclasses.field(metadata={"static": True})
    owners: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """The members that have one, where not all do."""
    of_all: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    """The numbers of every member's matrices among all of the tree, as many for each; -1 for none."""
    numbers: jax.Array
    """Those of this member, `[count]`."""

    @property
    def inputs(self) -> int:
        """The axis of the inputs, of a stack that is oriented."""
        return -1 if self.group.turned else -2

    def cut(self, blocks: int) -> "Piece":
        """The same of all the blocks that every matrix is cut into."""
        within = np.arange(blocks)
        of_all = (np.array(self.of_all)[..., None] * blocks + within).reshape(len(self.of_all), -1)
        numbers = (self.numbers[:, None] * blocks + within).ravel()
        return dataclasses.replace(self, number=self.number * blocks, of_all=_listed(of_all), numbers=numbers)


def pieces(
    made: Sequence[Group], found: Sequence[Share], leaves: Mapping[int, Matrices], axis_name: Any
) -> list[Piece]:
    """All that a member works on."""
    own: list[Piece] = []
    members = axes.size(axis_name)
    for group, share in zip(made, found, strict=True):
        of_all = numbers(group, leaves, members)
        even = of_all if group.alone else of_all[0, : share.each * members].reshape(members, -1)
        rest = np.full((members, 1), -1)
        rest[list(share.owners), 0] = of_all[0, of_all.shape[1] - len(share.owners) :]
        for each, owners in ((even, ()), (rest, share.owners)):
            if owners or (each.size and each is even):
                mine = jnp.asarray(each)[axes.axis_index(axis_name) if members > 1 else 0]
                own.append(Piece(group, each.shape[1], owners, _listed(each), mine))
    return own


def _listed(numbers: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, numbers.tolist()))


def has(piece: Piece, axis_name: Any) -> jax.Array:
    """Whether this member has one."""
    return place_among(piece.owners, axis_name) >= 0


def place_among(owners: Sequence[int], axis_name: Any) -> jax.Array:
    """Which of some matrices this member owns; -1 for none."""
    places = np.full(axes.size(axis_name), -1)
    places[list(owners)] = np.arange(len(owners))
    return jnp.asarray(places)[axes.axis_index(axis_name)]
