"""What the members of an axis send one another to work on stacks: their parts there, results back."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import axes
from gdjax.matrices.shares import Share, place_among
from gdjax.matrices.stacks import Group


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
    stacks |= {i: _in_order(part, found[i]) for i, part in zip(cut, parts, strict=True)}
    gathered = _gathered([jnp.concatenate(own[i]) for i in whole], axis_name)
    stacks |= {i: _in_order(part, found[i]) for i, part in zip(whole, gathered, strict=True)}
    return [stacks[i] for i in range(len(made))]


def _cut(stack: jax.Array, group: Group, share: Share, axis_name: Any) -> list[jax.Array]:
    """This member's pieces of a whole stack."""
    if group.alone:
        return [stack]
    even = share.each * axes.size(axis_name)
    own = []
    if share.each:
        start = axes.axis_index(axis_name) * share.each
        own.append(lax.dynamic_slice_in_dim(stack, start, share.each))
    if share.owners:
        own.append(lax.dynamic_slice_in_dim(stack, even + jnp.maximum(place_among(share.owners, axis_name), 0), 1))
    return own


def _by_owner(stack: jax.Array, share: Share, members: int) -> jax.Array:
    """A stack as `[members, slots, m, n]`, zeros in the slots of those that have none of the last."""
    even = stack[: share.each * members].reshape(members, share.each, *stack.shape[1:])
    if not share.owners:
        return even
    spare = jnp.zeros((members, 1, *stack.shape[1:]), stack.dtype)
    spare = spare.at[np.array(share.owners), 0].set(stack[share.each * members :])
    return jnp.concatenate([even, spare], axis=1)


def _in_order(slots: jax.Array, share: Share) -> jax.Array:
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
        alike.setdefault((x.dtype, axes.varying_axes(x)), []).append(i)
    results = list(arrays)
    for places in alike.values():
        flat = [arrays[i].reshape(*arrays[i].shape[:lead], -1) for i in places]
        together = send(jnp.concatenate(flat, axis=-1))
        ends = np.cumsum([x.shape[-1] for x in flat])[:-1]
        for i, part in zip(places, jnp.split(together, ends, axis=1), strict=True):
            results[i] = part.reshape(len(part), *arrays[i].shape[lead:])
    return results
