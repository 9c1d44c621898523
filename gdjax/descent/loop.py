"""The compiled loop: many steps in one dispatch, as many as the host asks for.

How many is an argument of one program and not part of it. So their number may follow the clock while the numbers that
come out are the same to the bit, whatever it was.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax import tree
from gdjax.compose import metrics
from gdjax.descent.batches import Plan
from gdjax.descent.gradient import make_gradient
from gdjax.descent.step import State, descended
from gdjax.descent.stopping import Criterion
from gdjax.value import GradientTransform, at
from gdjax.value.hyperparams import get, hyperparams

CAPACITY = 8192
"""Steps of one dispatch at the most: what they report is kept on the device until its end."""


class Carry(NamedTuple):
    """What goes from dispatch to dispatch; donated to each."""

    state: State
    order: Any
    """The examples in the order of this epoch, int32 of shape (examples,); `None` where nothing is shuffled."""
    order_key: Any
    stop: Any
    """The state of the criterion."""
    ended: Any
    """Whether the criterion is met, of shape ()."""
    written: Any
    """Steps in `records`, int32 of shape ()."""
    records: dict[str, Any]
    """What the steps report by name, each of shape (CAPACITY,)."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A descent but for its numbers: equal ones are compiled once."""

    loss: Callable[..., Any]
    tx: Any
    stop: Criterion
    plan: Plan | None
    mesh: jax.sharding.Mesh | None

    def __hash__(self) -> int:
        try:
            return hash((self.loss, self.tx, self.stop, self.plan, self.mesh))
        except TypeError:  # an optimizer that holds arrays equals by value, and has no hash
            return hash((self.stop, self.plan, self.mesh))

    @functools.cached_property
    def _gradient(self) -> Callable[..., Any]:
        return make_gradient(self.loss, has_aux=None)

    def start(self, state: State, order_key: jax.Array, stop: Any, batch: Any) -> Carry:
        """What the first dispatch gets; a batch, or its shapes, shows what a step will report."""
        shuffled = self.plan is not None and not self.plan.whole
        _, reports = jax.eval_shape(functools.partial(self._step, weight=1.0), state, stop, batch)
        for path, leaf in tree.leaves_with_paths(reports):
            if leaf.shape:
                raise ValueError(
                    f"fit: aux must hold scalars, got shape {leaf.shape} at {path.removeprefix('aux/')!r}."
                )
        return Carry(
            state=state,
            order=self.plan.order(order_key, state.count) if shuffled else None,  # pyright: ignore[reportOptionalMemberAccess]
            order_key=order_key,
            stop=stop,
            ended=self.stop.met(stop),
            written=jnp.zeros((), jnp.int32),
            records={name: jnp.zeros((CAPACITY,), leaf.dtype) for name, leaf in reports.items()},
        )

    def many(self, carry: Carry, data: Any, number: jax.Array) -> Carry:
        """Take a number of steps, or as many as it takes to end; none of them the incomplete one of an epoch."""

        def go_on(carry: Carry) -> jax.Array:
            return (carry.written < number) & ~carry.ended

        def body(carry: Carry) -> Carry:
            carry = self._ordered(carry)
            return self._taken(carry, self._batch(carry, data))

        return jax.lax.while_loop(go_on, body, carry._replace(written=jnp.zeros((), jnp.int32)))

    def last(self, carry: Carry, data: Any) -> Carry:
        """Take the one step of an epoch that has fewer examples, each of which weighs as much as every other."""
        assert self.plan is not None
        carry = carry._replace(written=jnp.zeros((), jnp.int32))
        rows = carry.order[self.plan.examples - self.plan.remainder :]
        weight = self.plan.remainder / self.plan.batch_size
        return self._taken(carry, self._spread(jax.tree.map(lambda x: x[rows], data)), weight)

    def one(self, carry: Carry, batch: Any) -> Carry:
        """Take a step with a batch that was brought, unless the descent has ended."""
        return jax.lax.cond(carry.ended, lambda: carry, lambda: self._taken(carry, self._spread(batch)))

    def told(self, carry: Carry, seen: Any) -> Carry:
        """Show the criterion what was seen beside the steps."""
        stop = self.stop.update(carry.stop, seen)
        return carry._replace(stop=stop, ended=self.stop.met(stop))

    def _ordered(self, carry: Carry) -> Carry:
        if carry.order is None or self.plan is None:
            return carry
        begins = carry.state.count % self.plan.per_epoch == 0
        order = functools.partial(self.plan.order, carry.order_key, carry.state.count)
        return carry._replace(order=jax.lax.cond(begins, order, lambda: carry.order))

    def _batch(self, carry: Carry, data: Any) -> Any:
        if carry.order is None or self.plan is None:
            return self._spread(data)
        first = carry.state.count % self.plan.per_epoch * self.plan.batch_size
        rows = jax.lax.dynamic_slice(carry.order, (first,), (self.plan.batch_size,))
        return self._spread(jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), data))

    def _spread(self, batch: Any) -> Any:
        """A batch, divided over the devices."""
        if self.mesh is None:
            return batch
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), batch)

    def _taken(self, carry: Carry, batch: Any, weight: float = 1.0) -> Carry:
        (state, stop), reports = self._step(carry.state, carry.stop, batch, weight)
        records = {name: of.at[carry.written].set(reports[name]) for name, of in carry.records.items()}
        ended = self.stop.met(stop)
        return carry._replace(state=state, stop=stop, ended=ended, written=carry.written + 1, records=records)

    def _step(self, state: State, stop: Any, batch: Any, weight: float) -> tuple[tuple[State, Any], dict[str, Any]]:
        """One step; where loss or gradient are not finite it changes nothing but the count."""
        gradient, value_fn = self._gradient(state.params, batch, state.step_key(), state.extra)
        norm = tree.global_norm(gradient.grads)
        finite = jnp.isfinite(gradient.value) & jnp.isfinite(norm)
        weighed, weighed_fn = _weighed(weight, gradient, value_fn)
        # the count is no result of a branch: for XLA:CPU it would be a reason to divide the body among threads
        changed = jax.lax.cond(
            finite, lambda: _changed(descended(self.tx, state, weighed, weighed_fn)), lambda: _changed(state)
        )
        new = state._replace(count=state.count + 1, **changed)
        reports = {"loss": gradient.value, "grad_norm": norm} | _learning_rate(self.tx, state.count)
        reports |= {name: seen for name, seen in metrics(new.opt_state).items() if name not in reports}
        reports |= _named(gradient.aux)
        stop = self.stop.update(stop, {"step": new.count, **reports})
        return (new, stop), reports


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def many(program: Program, carry: Carry, data: Any, number: Any) -> Carry:
    """`Program.many`, compiled; the carry is gone."""
    return program.many(carry, data, number)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def last(program: Program, carry: Carry, data: Any) -> Carry:
    """`Program.last`, compiled; the carry is gone."""
    return program.last(carry, data)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def one(program: Program, carry: Carry, batch: Any) -> Carry:
    """`Program.one`, compiled; the carry is gone."""
    return program.one(carry, batch)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def told(program: Program, carry: Carry, seen: Any) -> Carry:
    """`Program.told`, compiled; the carry is gone."""
    return program.told(carry, seen)


def _changed(state: State) -> dict[str, Any]:
    """What a step that is finite changes."""
    return {"params": state.params, "opt_state": state.opt_state, "extra": state.extra}


def _weighed(weight: float, gradient: Any, value_fn: Any) -> Any:
    if weight == 1.0:
        return gradient, value_fn
    grads = jax.tree.map(lambda g: weight * g, gradient.grads)
    return gradient._replace(value=weight * gradient.value, grads=grads), lambda params: weight * value_fn(params)


def _learning_rate(tx: Any, count: jax.Array) -> dict[str, Any]:
    """The learning rate of a step, where the optimizer has one and not several."""
    if not isinstance(tx, GradientTransform):
        return {}
    ways = [way for way in hyperparams(tx) if way[-1] == "learning_rate"]
    found = [get(tx, way) for way in ways]
    return (
        {"learning_rate": jnp.asarray(at(found[0], count), float)} if len(found) == 1 and found[0] is not None else {}
    )


def _named(aux: Any) -> dict[str, Any]:
    """What a loss returns beside its value, by path."""
    return {path or "aux": leaf for path, leaf in tree.leaves_with_paths(aux)}
