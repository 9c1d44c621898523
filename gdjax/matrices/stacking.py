"""Stack matrices of one shape from several leaves, and split the stacks into leaves again."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import axes
from gdjax.matrices.views import View

MAX_BYTES = 2**28
"""Most bytes of a stack, unless one matrix, or one matrix for every device, has more."""


class LeafMatrices(NamedTuple):
    """The matrices that a leaf holds."""

    view: View
    """View of the leaf as a device holds it: of its shard if the leaf is sharded."""
    shape: tuple[int, int]
    """Rows and columns of a global matrix."""
    sharded_dim: int | None
    """The dimension of a stack, 1 or 2, along which its matrices are sharded; `None` if a device has them complete."""
    local: bool
    """True if only the device that holds these matrices works on them, and on all of them."""
    first: int
    """Number of matrices in all leaves before this one, over all devices."""


class LeafSlice(NamedTuple):
    """Consecutive matrices of a leaf."""

    leaf: int
    start: int
    stop: int


class StackPlan(NamedTuple):
    """A stack of matrices of one shape, dtype and sharding; rows are never more than columns."""

    shape: tuple[int, int]
    """Rows and columns of a global matrix in the stack."""
    dtype: Any
    sharded_dim: int | None
    """The dimension of the stack along which its matrices are sharded, if they are."""
    local: bool
    """As in `LeafMatrices`."""
    transposed: bool
    """True if all matrices are transposed; False if a stack may hold both kinds."""
    slices: tuple[LeafSlice, ...]

    @property
    def matrix_count(self) -> int:
        """Return the number of matrices."""
        return sum(part.stop - part.start for part in self.slices)


def plan_stacks(
    matrices: Mapping[int, LeafMatrices],
    leaves: Sequence[jax.Array],
    devices: int,
    oriented: bool,
    max_bytes: int = MAX_BYTES,
) -> list[StackPlan]:
    """Group the matrices of leaves, given by the index of the leaf, into stacks.

    A stack that devices share ends after a multiple of their number if it would exceed `max_bytes`.

    Args:
      matrices: the matrices of each leaf.
      leaves: the leaves.
      devices: the number of devices that share the work.
      oriented: whether transposed matrices need a separate stack.
      max_bytes: most bytes of a stack.
    """
    kinds: dict[Any, list[LeafSlice]] = {}
    for leaf, held in matrices.items():
        transposed = _is_transposed(held)
        shape = held.shape[::-1] if transposed else held.shape
        sharded_dim = held.sharded_dim and (3 - held.sharded_dim if transposed else held.sharded_dim)
        dtype, varying = leaves[leaf].dtype, axes.varying_axes(leaves[leaf])
        key = shape, dtype, sharded_dim, held.local, transposed and oriented, varying
        kinds.setdefault(key, []).append(LeafSlice(leaf, 0, held.view.sizes()[0]))
    plans = []
    for (shape, dtype, sharded_dim, local, transposed, _), slices in kinds.items():
        most = max(max_bytes // (shape[0] * shape[1] * dtype.itemsize), 1)
        most = most if local else max(most - most % devices, devices)
        plans += [StackPlan(shape, dtype, sharded_dim, local, transposed, part) for part in _chunks(slices, most)]
    return plans


def _is_transposed(held: LeafMatrices) -> bool:
    return held.shape[0] > held.shape[1]


def _chunks(slices: Sequence[LeafSlice], most: int) -> list[tuple[LeafSlice, ...]]:
    """Cut consecutive slices into chunks of at most so many matrices."""
    chunks: list[list[LeafSlice]] = [[]]
    left = most
    for leaf, start, stop in slices:
        while start < stop:
            taken = min(stop - start, left)
            chunks[-1].append(LeafSlice(leaf, start, start + taken))
            start, left = start + taken, left - taken
            if not left:
                chunks, left = [*chunks, []], most
    return [tuple(chunk) for chunk in chunks if chunk]


def matrix_numbers(plan: StackPlan, matrices: Mapping[int, LeafMatrices], devices: int) -> np.ndarray:
    """Return the numbers of a stack's matrices among all matrices of the tree, for each device: `[devices, count]`."""

    def of_slice(part: LeafSlice, device: int) -> np.ndarray:
        held = matrices[part.leaf]
        return held.first + np.arange(part.start, part.stop) + device * held.local * held.view.sizes()[0]

    return np.stack([np.concatenate([of_slice(part, device) for part in plan.slices]) for device in range(devices)])


def make_stack(plan: StackPlan, matrices: Mapping[int, LeafMatrices], leaves: Sequence[jax.Array]) -> jax.Array:
    """Return the stack `[count, m, n]` of a plan; if the matrices are sharded, of their shards on this device."""

    def of_slice(part: LeafSlice) -> jax.Array:
        stack = matrices[part.leaf].view.matrices(leaves[part.leaf])[part.start : part.stop]
        return stack.mT if _is_transposed(matrices[part.leaf]) else stack

    stacks = [of_slice(part) for part in plan.slices]
    return stacks[0] if len(stacks) == 1 else jnp.concatenate(stacks)


def split_stacks(
    plans: Sequence[StackPlan],
    matrices: Mapping[int, LeafMatrices],
    stacks: Sequence[jax.Array],
    leaves: Sequence[jax.Array],
) -> list[jax.Array]:
    """Return the leaves whose matrices are in stacks; a leaf without matrices stays as it is."""
    found: dict[int, list[jax.Array]] = {}
    for plan, stack in zip(plans, stacks, strict=True):
        at = 0
        for part in plan.slices:
            size = part.stop - part.start
            some = stack[at : at + size]
            found.setdefault(part.leaf, []).append(some.mT if _is_transposed(matrices[part.leaf]) else some)
            at += size
    changed = {i: matrices[i].view.leaf(jnp.concatenate(parts)) for i, parts in found.items()}
    return [changed.get(i, leaf) for i, leaf in enumerate(leaves)]
