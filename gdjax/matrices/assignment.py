"""Assign the matrices of stacks to the devices of an axis."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import axes
from gdjax.matrices.stacking import LeafMatrices, StackPlan, matrix_numbers


class Assignment(NamedTuple):
    """Assignment of the matrices of a stack: the same number to each device, and one of the rest to some devices."""

    per_device: int
    owners: tuple[int, ...]
    """The devices that get one of the remaining matrices, in the order of these."""

    def slots(self) -> int:
        """Return the largest number of matrices on one device."""
        return self.per_device + bool(self.owners)


def assign_matrices(plans: Sequence[StackPlan], devices: int) -> list[Assignment]:
    """Assign the matrices of each stack, the most expensive stack first, its rest to the devices with the least work.

    This is the rule of the longest processing time (Graham 1969, theorem 2, https://doi.org/10.1137/0117039), over all
    stacks. A matrix of m by n costs $m^2 (m + n)$.
    """
    loads = np.zeros(devices)
    assignments: dict[int, Assignment] = {}

    def cost(i: int) -> int:
        m, n = plans[i].shape
        return m * m * (m + n)

    for i in sorted(range(len(plans)), key=cost, reverse=True):
        if plans[i].local:
            assignments[i] = Assignment(plans[i].matrix_count, ())
            continue
        per_device, rest = divmod(plans[i].matrix_count, devices)
        owners = np.argsort(loads, kind="stable")[:rest]
        loads += cost(i) * per_device
        loads[owners] += cost(i)
        assignments[i] = Assignment(per_device, tuple(map(int, owners)))
    return [assignments[i] for i in range(len(plans))]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MatrixBatch:
    """Matrices of a stack that a device works on at once: its even part, or one of the rest.

    It is a pytree whose only child is `numbers`; the rest is static, so one compiled function serves every step.
    """

    plan: StackPlan = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})
    owners: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """The devices that have this batch; empty if all devices have it."""
    numbers_of_devices: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    """For each device, the numbers of its matrices among all matrices of the tree; -1 stands for no matrix."""
    numbers: jax.Array
    """The numbers on this device, of shape (count,)."""

    @property
    def input_axis(self) -> int:
        """Return the axis of the inputs of an oriented stack."""
        return -1 if self.plan.transposed else -2

    def split(self, blocks: int) -> "MatrixBatch":
        """Return the batch of all blocks, if each matrix is split into so many."""
        within = np.arange(blocks)
        of_devices = np.array(self.numbers_of_devices)
        of_devices = (of_devices[..., None] * blocks + within).reshape(len(of_devices), -1)
        numbers = (self.numbers[:, None] * blocks + within).ravel()
        return dataclasses.replace(
            self, count=self.count * blocks, numbers_of_devices=_as_tuples(of_devices), numbers=numbers
        )


def local_batches(
    plans: Sequence[StackPlan],
    assignments: Sequence[Assignment],
    matrices: Mapping[int, LeafMatrices],
    axis_name: axes.AxisName,
) -> list[MatrixBatch]:
    """Return the batches of this device: for each stack its even part, then its matrix of the rest, if it has one."""
    batches: list[MatrixBatch] = []
    devices = axes.size(axis_name)
    for plan, assignment in zip(plans, assignments, strict=True):
        numbers = matrix_numbers(plan, matrices, devices)
        even = numbers if plan.local else numbers[0, : assignment.per_device * devices].reshape(devices, -1)
        rest = np.full((devices, 1), -1)
        rest[list(assignment.owners), 0] = numbers[0, numbers.shape[1] - len(assignment.owners) :]
        for of_devices, owners in ((even, ()), (rest, assignment.owners)):
            if owners or (of_devices.size and of_devices is even):
                here = jnp.asarray(of_devices)[axes.axis_index(axis_name) if devices > 1 else 0]
                batches.append(MatrixBatch(plan, of_devices.shape[1], owners, _as_tuples(of_devices), here))
    return batches


def _as_tuples(numbers: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, numbers.tolist()))


def has_batch(batch: MatrixBatch, axis_name: axes.AxisName) -> jax.Array:
    """Return whether this device is among the owners of a batch."""
    return owner_index(batch.owners, axis_name) >= 0


def owner_index(owners: Sequence[int], axis_name: axes.AxisName) -> jax.Array:
    """Return the index of this device among owners; -1 if it is none of them."""
    indices = np.full(axes.size(axis_name), -1)
    indices[list(owners)] = np.arange(len(owners))
    return jnp.asarray(indices)[axes.axis_index(axis_name)]
