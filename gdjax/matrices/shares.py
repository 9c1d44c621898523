"""Work on stacks divided among the members of an axis, and what they send one another for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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


class Piece(NamedTuple):
    """What a member works on at once: its even share of a stack, or the one of the last that it may have."""

    group: Group
    number: int
    owners: tuple[int, ...]
    """The members that have one, where not all do."""
    of_all: np.ndarray
    """The numbers of every member's matrices among all of the tree, `[members, count]`."""
    numbers: jax.Array
    """Those of this member, `[count]`."""

    @property
    def inputs(self) -> int:
        """The axis of the inputs, of a stack that is oriented."""
        return -1 if self.group.turned else -2

    def cut(self, blocks: int) -> "Piece":
        """The same of all the blocks that every matrix is cut into."""
        within = np.arange(blocks)
        of_all = (self.of_all[..., None] * blocks + within).reshape(len(self.of_all), -1)
        numbers = (self.numbers[:, None] * blocks + within).ravel()
        return self._replace(number=self.number * blocks, of_all=of_all, numbers=numbers)


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
                mine = jnp.asarray(each)[axes.place_of_member(axis_name) if members > 1 else 0]
                own.append(Piece(group, each.shape[1], owners, each, mine))
    return own


def has(piece: Piece, axis_name: Any) -> jax.Array:
    """Whether this member has one."""
    return _place(piece.owners, axis_name) >= 0


def _place(owners: Sequence[int], axis_name: Any) -> jax.Array:
    """Which of some matrices this member owns; -1 for none."""
    places = np.full(axes.size(axis_name), -1)
    places[list(owners)] = np.arange(len(owners))
    return jnp.asarray(places)[axes.place_of_member(axis_name)]


def given(
    made: Sequence[Group], found: Sequence[Share], stacks: Sequence[Sequence[jax.Array]], axis_name: Any
) -> list[list[jax.Array]]:
    """Of several lists of stacks, this member's pieces: of whole ones cut out, of parts put together.

    All parts travel in one all-to-all for each dtype.
    """
    sent = {}
    for which, of in enumerate(stacks):
        for i, (group, share, stack) in enumerate(zip(made, found, of, strict=True)):
            if group.cut is not None and not group.alone:
                sent[which, i] = _by_owner(stack, share, axes.size(axis_name))
    received = dict(zip(sent, _exchanged(list(sent.values()), axis_name), strict=True))
    return [
        [
            piece
            for i, (group, share, stack) in enumerate(zip(made, found, of, strict=True))
            for piece in (
                _joined(received[which, i], group, share)
                if (which, i) in sent
                else _cut(stack, group, share, axis_name)
            )
        ]
        for which, of in enumerate(stacks)
    ]


def returned(
    made: Sequence[Group], found: Sequence[Share], results: Sequence[jax.Array], axis_name: Any
) -> list[jax.Array]:
    """The stacks of all pieces: whole ones gathered, parts sent back, in one collective each for a dtype."""
    left, own = list(results), []
    for share in found:
        number = bool(share.each) + bool(share.owners)
        own.append([left.pop(0) for _ in range(number)])
    cut = [i for i, group in enumerate(made) if group.cut is not None and not group.alone]
    whole = [i for i, group in enumerate(made) if group.cut is None and not group.alone]
    stacks = {i: of[0] for i, of in enumerate(own) if made[i].alone}
    size = axes.size(axis_name) if cut or whole else 1
    parts = _exchanged([_by_member(own[i], made[i], size) for i in cut], axis_name)
    stacks |= {i: _in_order(part, found[i], made[i].number) for i, part in zip(cut, parts, strict=True)}
    gathered = _gathered([jnp.concatenate(own[i]) for i in whole], axis_name)
    stacks |= {i: _in_order(part, found[i], made[i].number) for i, part in zip(whole, gathered, strict=True)}
    return [stacks[i] for i in range(len(made))]


def _cut(stack: jax.Array, group: Group, share: Share, axis_name: Any) -> list[jax.Array]:
    """This member's pieces of a whole stack."""
    if group.alone:
        return [stack]
    even = share.each * axes.size(axis_name)
    own = []
    if share.each:
        start = axes.place_of_member(axis_name) * share.each
        own.append(lax.dynamic_slice_in_dim(stack, start, share.each))
    if share.owners:
        own.append(lax.dynamic_slice_in_dim(stack, even + jnp.maximum(_place(share.owners, axis_name), 0), 1))
    return own


def _by_owner(stack: jax.Array, share: Share, members: int) -> jax.Array:
    """A stack as `[members, slots, m, n]`, zeros in the slots of those that have none of the last."""
    even = stack[: share.each * members].reshape(members, share.each, *stack.shape[1:])
    if not share.owners:
        return even
    spare = jnp.zeros((members, 1, *stack.shape[1:]), stack.dtype)
    spare = spare.at[np.array(share.owners), 0].set(stack[share.each * members :])
    return jnp.concatenate([even, spare], axis=1)


def _in_order(slots: jax.Array, share: Share, count: int) -> jax.Array:
    """A stack of `[members, slots, m, n]`."""
    even = slots[:, : share.each].reshape(-1, *slots.shape[2:])
    return jnp.concatenate([even, slots[np.array(share.owners), -1]]) if share.owners else even


def _joined(received: jax.Array, group: Group, share: Share) -> list[jax.Array]:
    """The pieces of `[members, slots, m, n]`, parts of all members along the dimension that is divided."""
    together = jnp.moveaxis(received, 0, group.cut or 0)
    shape = (share.slots(), *group.shape)
    whole = together.reshape(shape)
    ends = (whole[: share.each], whole[share.each :])
    return [piece for piece in ends if len(piece)]


def _by_member(own: Sequence[jax.Array], group: Group, members: int) -> jax.Array:
    """Pieces as `[members, slots, m, n]`, each member's part of all their matrices."""
    whole = jnp.concatenate(own) if len(own) > 1 else own[0]
    at = group.cut or 0
    shape = (*whole.shape[:at], members, whole.shape[at] // members, *whole.shape[at + 1 :])
    return jnp.moveaxis(whole.reshape(shape), at, 0)


def _exchanged(arrays: Sequence[jax.Array], axis_name: Any) -> list[jax.Array]:
    """Of arrays `[members, ...]` one for each member, what all have for this one."""
    return _as_one(arrays, lambda flat: lax.all_to_all(flat, axis_name, 0, 0), lead=1)


def _gathered(arrays: Sequence[jax.Array], axis_name: Any) -> list[jax.Array]:
    """Arrays of all members along a new first axis; the same on all."""
    return _as_one(arrays, lambda flat: axes.all_gather(flat[None], axis_name), lead=0)


def _as_one(arrays: Sequence[jax.Array], send: Callable[[jax.Array], jax.Array], lead: int) -> list[jax.Array]:
    """What a collective makes of arrays, `[members, ...]`, one for each dtype; so many of their axes lead."""
    alike: dict[Any, list[int]] = {}
    for i, x in enumerate(arrays):
        alike.setdefault((x.dtype, axes.differing(x)), []).append(i)
    results = list(arrays)
    for places in alike.values():
        flat = [arrays[i].reshape(*arrays[i].shape[:lead], -1) for i in places]
        together = send(jnp.concatenate(flat, axis=-1))
        ends = np.cumsum([x.shape[-1] for x in flat])[:-1]
        for i, part in zip(places, jnp.split(together, ends, axis=1), strict=True):
            results[i] = part.reshape(len(part), *arrays[i].shape[lead:])
    return results
