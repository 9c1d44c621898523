"""Exchange the matrices of stacks among the devices of an axis: the operands to the assigned devices, results back."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gdjax import axes
from gdjax.matrices.assignment import Assignment, owner_index
from gdjax.matrices.stacking import StackPlan
from gdjax.raveling import ravel_arrays


def distribute(
    plans: Sequence[StackPlan],
    assignments: Sequence[Assignment],
    stacks_of_trees: Sequence[Sequence[jax.Array]],
    axis_name: axes.AxisName,
) -> list[list[jax.Array]]:
    """Return the arrays of this device's batches, for each list of stacks.

    Replicated stacks are sliced. Shards of all sharded stacks travel in one all-to-all for each dtype.
    """
    to_send = {}
    for which, stacks in enumerate(stacks_of_trees):
        for i, (plan, assignment, stack) in enumerate(zip(plans, assignments, stacks, strict=True)):
            if _is_exchanged(plan):
                to_send[which, i] = _by_owner(stack, assignment, axes.size(axis_name))
    received = dict(zip(to_send, _all_to_all(list(to_send.values()), axis_name), strict=True))
    return [
        [
            array
            for i, (plan, assignment, stack) in enumerate(zip(plans, assignments, stacks, strict=True))
            for array in (
                _join_shards(received[which, i], plan, assignment)
                if (which, i) in to_send
                else _slice_replicated(stack, plan, assignment, axis_name)
            )
        ]
        for which, stacks in enumerate(stacks_of_trees)
    ]


def collect(
    plans: Sequence[StackPlan],
    assignments: Sequence[Assignment],
    results: Sequence[jax.Array],
    axis_name: axes.AxisName,
) -> list[jax.Array]:
    """Return the stacks of the results of all batches.

    Replicated stacks are gathered and shards are sent back, in one collective each for a dtype.
    """
    left, batches = list(results), []
    for assignment in assignments:
        number = bool(assignment.per_device) + bool(assignment.owners)
        batches.append([left.pop(0) for _ in range(number)])
    sharded = [i for i, plan in enumerate(plans) if _is_exchanged(plan)]
    replicated = [i for i, plan in enumerate(plans) if plan.sharded_dim is None and not plan.local]
    stacks = {i: of_stack[0] for i, of_stack in enumerate(batches) if plans[i].local}
    devices = axes.size(axis_name) if sharded or replicated else 1
    shards = _all_to_all([_by_device(batches[i], plans[i], devices) for i in sharded], axis_name)
    stacks |= {i: _in_order(slots, assignments[i]) for i, slots in zip(sharded, shards, strict=True)}
    gathered = _all_gather([jnp.concatenate(batches[i]) for i in replicated], axis_name)
    stacks |= {i: _in_order(slots, assignments[i]) for i, slots in zip(replicated, gathered, strict=True)}
    return [stacks[i] for i in range(len(plans))]


def _is_exchanged(plan: StackPlan) -> bool:
    """Return whether devices have to exchange shards of the matrices of a stack."""
    return plan.sharded_dim is not None and not plan.local


def _slice_replicated(
    stack: jax.Array, plan: StackPlan, assignment: Assignment, axis_name: axes.AxisName
) -> list[jax.Array]:
    """Return the arrays of this device's batches of a stack that every device has."""
    if plan.local:
        return [stack]
    even, arrays = assignment.per_device * axes.size(axis_name), []
    if assignment.per_device:
        start = axes.axis_index(axis_name) * assignment.per_device
        arrays.append(lax.dynamic_slice_in_dim(stack, start, assignment.per_device))
    if assignment.owners:
        index = even + jnp.maximum(owner_index(assignment.owners, axis_name), 0)
        arrays.append(lax.dynamic_slice_in_dim(stack, index, 1))
    return arrays


def _by_owner(stack: jax.Array, assignment: Assignment, devices: int) -> jax.Array:
    """Return a stack as `[devices, slots, m, n]`; an unused last slot holds zeros."""
    even = assignment.per_device * devices
    slots = stack[:even].reshape(devices, assignment.per_device, *stack.shape[1:])
    if not assignment.owners:
        return slots
    last = jnp.zeros((devices, 1, *stack.shape[1:]), stack.dtype)
    last = last.at[np.array(assignment.owners), 0].set(stack[even:])
    return jnp.concatenate([slots, last], axis=1)


def _in_order(slots: jax.Array, assignment: Assignment) -> jax.Array:
    """Return the stack of `[devices, slots, m, n]`."""
    even = slots[:, : assignment.per_device].reshape(-1, *slots.shape[2:])
    return jnp.concatenate([even, slots[np.array(assignment.owners), -1]]) if assignment.owners else even


def _join_shards(received: jax.Array, plan: StackPlan, assignment: Assignment) -> list[jax.Array]:
    """Return the arrays of the batches of `[devices, slots, m, n]`, which holds one shard from each device."""
    together = jnp.moveaxis(received, 0, plan.sharded_dim or 0)
    joined = together.reshape(assignment.slots(), *plan.shape)
    batches = (joined[: assignment.per_device], joined[assignment.per_device :])
    return [array for array in batches if len(array)]


def _by_device(batches: Sequence[jax.Array], plan: StackPlan, devices: int) -> jax.Array:
    """Return the results of a stack's batches as `[devices, slots, m, n]`: for each device its shards of them."""
    joined = jnp.concatenate(batches) if len(batches) > 1 else batches[0]
    at = plan.sharded_dim or 0
    shape = (*joined.shape[:at], devices, joined.shape[at] // devices, *joined.shape[at + 1 :])
    return jnp.moveaxis(joined.reshape(shape), at, 0)


def _all_to_all(arrays: Sequence[jax.Array], axis_name: axes.AxisName) -> list[jax.Array]:
    """Send row `i` of each array `[devices, ...]` to device `i`; return the rows received."""
    return _send_together(arrays, lambda flat: lax.all_to_all(flat, axis_name, 0, 0), lead=1)


def _all_gather(arrays: Sequence[jax.Array], axis_name: axes.AxisName) -> list[jax.Array]:
    """Return the arrays of all devices along a new first axis, invariant over the axis."""
    return _send_together(arrays, lambda flat: axes.all_gather(flat[None], axis_name), lead=0)


def _send_together(arrays: Sequence[jax.Array], send: Callable[[jax.Array], jax.Array], lead: int) -> list[jax.Array]:
    """Send arrays by one collective for each dtype and set of varying axes; `lead` axes are kept."""
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(arrays):
        groups.setdefault((x.dtype, axes.varying_axes(x)), []).append(i)
    received = list(arrays)
    for places in groups.values():
        flat, split = ravel_arrays([arrays[i] for i in places], lead)
        for i, x in zip(places, split(send(flat)), strict=True):
            received[i] = x
    return received
