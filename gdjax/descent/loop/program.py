"""The compiled loop: many steps in one dispatch, as many as the host asks for.

How many is an argument of one program and not part of it. So their number may follow the clock while the numbers that
come out are the same to the bit, whatever it was.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import norms, tree
from gdjax.compose.watch import metrics
from gdjax.descent.data.batching import Plan
from gdjax.descent.data.placement import EVERYWHERE, Placement
from gdjax.descent.step.gradient import make_gradient
from gdjax.descent.step.step import State, descended
from gdjax.descent.stopping import Criterion
from gdjax.value import GradientTransform
from gdjax.value.hyperparams import get, hyperparams

CAPACITY = 8192
"""Steps of one dispatch at the most: what they report is kept on the device until its end."""

RESERVED = ("step", "loss", "grad_norm", "learning_rate", "throughput", "seconds")
"""Names in the history, and of what criteria see, that mean the same in every descent."""


class Carry(NamedTuple):
    """What goes from dispatch to dispatch; donated to each."""

    state: State
    order_key: Any
    """Of the order of examples."""
    stop: Any
    """The state of the criterion."""
    ended: Any
    """Whether the criterion is met, of shape ()."""
    written: Any
    """Steps in `records`, int32 of shape ()."""
    records: dict[str, Any]
    """What the steps report by name, each of shape (CAPACITY,)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A descent but for its numbers: equal ones are compiled once."""

    loss: Callable[..., Any]
    tx: Any
    stop: Criterion
    plan: Plan | None
    placement: Placement

    @property
    def _hashed(self) -> Any:
        return self.stop, self.plan, self.placement

    def __hash__(self) -> int:
        return hash(self._hashed)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program) or self._hashed != other._hashed:
            return False
        try:
            return bool(self.loss == other.loss and self.tx == other.tx)
        except ValueError:  # of a loss that compares arrays
            return False

    @functools.cached_property
    def _gradient(self) -> Callable[..., Any]:
        return make_gradient(self.loss, has_aux=None, who="fit")

    def start(self, state: State, order_key: jax.Array, stop: Any, reports: dict[str, Any]) -> Carry:
        """What the first dispatch gets; shapes of what a step reports make room for it."""
        return Carry(
            state=state,
            order_key=order_key,
            stop=stop,
            ended=self.stop.met(stop),
            written=jnp.zeros((), jnp.int32),
            records={name: jnp.zeros((CAPACITY,), leaf.dtype) for name, leaf in reports.items()},
        )

    def reports(self, state: State, stop: Any, batch: Any) -> dict[str, Any]:
        """What a step reports, by name."""
        return self._step(state, stop, batch, weight=1.0)[1]

    def many(self, carry: Carry, data: Any, number: jax.Array) -> Carry:
        """Take a number of steps, or as many as it takes to end; none of them the incomplete one of an epoch."""

        def go_on(carry: Carry) -> jax.Array:
            return (carry.written < number) & ~carry.ended

        def body(carry: Carry) -> Carry:
            return self._taken(carry, self._batch(carry, data))

        return jax.lax.while_loop(go_on, body, carry._replace(written=jnp.zeros((), jnp.int32)))

    def last(self, carry: Carry, data: Any) -> Carry:
        """Take the one step of an epoch that has fewer examples, each of which weighs as much as every other."""
        assert self.plan is not None
        carry = carry._replace(written=jnp.zeros((), jnp.int32))
        weight = self.plan.remainder / self.plan.batch_size
        return self._taken(carry, self._batch(carry, data, self.plan.remainder), weight)

    def one(self, carry: Carry, batch: Any) -> Carry:
        """Take a step with a batch that was brought, unless the descent has ended."""
        return jax.lax.cond(carry.ended, lambda: carry, lambda: self._taken(carry, self.placement.spread(batch)))

    def told(self, carry: Carry, seen: Any) -> Carry:
        """Show the criterion what was seen beside the steps."""
        stop = self.stop.update(carry.stop, seen)
        return carry._replace(stop=stop, ended=self.stop.met(stop))

    def _batch(self, carry: Carry, data: Any, size: int | None = None) -> Any:
        if self.plan is None or self.plan.whole:
            return self.placement.spread(data)
        rows = self.plan.rows(carry.order_key, carry.state.count, size or self.plan.batch_size)
        return self.placement.rows(data, rows)

    def _taken(self, carry: Carry, batch: Any, weight: float = 1.0) -> Carry:
        (state, stop), reports = self._step(carry.state, carry.stop, batch, weight)
        records = {name: of.at[carry.written].set(reports[name]) for name, of in carry.records.items()}
        ended, state = self.stop.met(stop), self.placement.kept(state)
        return carry._replace(state=state, stop=stop, ended=ended, written=carry.written + 1, records=records)

    def _step(self, state: State, stop: Any, batch: Any, weight: float) -> tuple[tuple[State, Any], dict[str, Any]]:
        """One step; where loss or gradient are not finite it changes nothing but the count."""
        gradient, value_fn = self._gradient(state.params, batch, state.step_key(), state.extra)
        norm = norms.global_scaled_norm(gradient.grads).finite_norm()
        finite = jnp.isfinite(gradient.value) & jnp.isfinite(norm)
        weighed, weighed_fn = _weighed(weight, gradient, value_fn)
        # the count is no result of a branch: with it there, a step of digits took half as long again on XLA:CPU
        changed = jax.lax.cond(
            finite,
            lambda: _changed(descended(self.tx, state, weighed, weighed_fn, weighed.grads)),
            lambda: _changed(state),
        )
        new = state._replace(count=state.count + 1, **changed)
        reports = {"loss": gradient.value, "grad_norm": norm} | _learning_rate(self.tx, state.opt_state)
        reports |= {name: seen for name, seen in metrics(new.opt_state).items() if name not in reports}
        reports |= _named(gradient.aux, {*RESERVED, *reports})
        stop = self.stop.update(stop, {"step": new.count, **reports})
        return (new, stop), reports


class Compiled:
    """The functions of a program, compiled; each takes the carry's buffers."""

    def __init__(self, program: Program):
        placed: dict[str, Any] = {}
        if (mesh := program.placement.mesh) is not None:  # as it came, or the next dispatch were another program
            everywhere = jax.sharding.NamedSharding(mesh, EVERYWHERE)
            others: list[Any] = [everywhere] * (len(Carry._fields) - 1)
            placed["out_shardings"] = Carry(program.placement.shardings(), *others)
        self.many, self.last, self.one, self.told = (
            jax.jit(function, donate_argnums=0, **placed)
            for function in (program.many, program.last, program.one, program.told)
        )
        self.reports = jax.jit(program.reports)


@functools.lru_cache(maxsize=16)
def compiled(program: Program) -> Compiled:
    """Of equal programs the same, and no more than a few: they hold the loss, and whatever it closes over."""
    return Compiled(program)


def _changed(state: State) -> dict[str, Any]:
    """What a step that is finite changes."""
    return {"params": state.params, "opt_state": state.opt_state, "extra": state.extra}


def _weighed(weight: float, gradient: Any, value_fn: Any) -> Any:
    if weight == 1.0:
        return gradient, value_fn
    grads = jax.tree.map(lambda g: weight * g, gradient.grads)
    return gradient._replace(value=weight * gradient.value, grads=grads), lambda params: weight * value_fn(params)


def _learning_rate(tx: Any, opt_state: Any) -> dict[str, Any]:
    """The learning rate of the next update, where the optimizer has one and not several."""
    ways = [way for way in hyperparams(tx) if way[-1] == "learning_rate"] if isinstance(tx, GradientTransform) else []
    if len(ways) != 1 or (rate := get(tx, ways[0])) is None:
        return {}
    if callable(rate):  # of the updates that it has made, which a wrapper may keep from being one a step
        counts = [node.count for node in jax.tree.leaves(opt_state, is_leaf=_is_scheduled) if _is_scheduled(node)]
        return {"learning_rate": jnp.asarray(rate(counts[0]), float)} if len(counts) == 1 else {}
    return {"learning_rate": jnp.asarray(rate, float)}


def _is_scheduled(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def _named(aux: Any, taken: set[str]) -> dict[str, Any]:
    """What a loss returns beside its value, by path."""
    named = {path or "aux": leaf for path, leaf in tree.leaves_with_paths(aux)}
    for name, leaf in named.items():
        if jnp.shape(leaf):
            raise ValueError(f"fit: aux must hold scalars, got shape {jnp.shape(leaf)} at {name!r}.")
    require_free("aux", named, taken)
    return named


def require_free(who: str, names: Iterable[str], taken: Collection[str]) -> None:
    """Refuse names that the history has for something else."""
    if used := sorted({*names} & {*taken}):
        raise ValueError(
            f"fit: {who} must not be named as what every step reports, got {used[0]!r}: take another name."
        )
