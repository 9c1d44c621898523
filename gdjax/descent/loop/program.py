"""The compiled loop: many steps in one dispatch, as many as the host asks for.

The number of steps is an argument of the compiled program. So it can adapt to wall time, and the results are the same
to the bit whatever it was.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gdjax import norms, tree
from gdjax.compose.watch import metrics
from gdjax.descent.data.batching import Batching
from gdjax.descent.data.placement import REPLICATED, Placement
from gdjax.descent.step.gradient import make_gradient
from gdjax.descent.step.step import State, apply_gradients
from gdjax.descent.stopping import Criterion
from gdjax.tree import Tree
from gdjax.value import GradientTransform
from gdjax.value.hyperparams import get, hyperparams

CAPACITY = 8192
"""Most steps of one dispatch: their reports stay on the device until its end."""

RESERVED = ("step", "loss", "grad_norm", "learning_rate", "throughput", "seconds")
"""Names with a fixed meaning in the history, and among the metrics that criteria see."""


class Carry(NamedTuple):
    """State carried from dispatch to dispatch, and donated to each."""

    state: State
    order_key: Any
    """Key of the order of examples."""
    stop: Any
    """State of the criterion."""
    ended: Any
    """Is the criterion met? A boolean of shape ()."""
    written: Any
    """Steps in `records`, int32 of shape ()."""
    records: dict[str, Any]
    """Reports of the steps by name, each of shape (CAPACITY,)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Everything of a descent but its numbers; equal programs are compiled once."""

    loss: Callable[..., Any]
    tx: Any
    stop: Criterion
    batching: Batching | None
    """`None` for batches of an iterable."""
    placement: Placement

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.stop, self.batching, self.placement

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program) or self._key != other._key:
            return False
        try:
            return bool(self.loss == other.loss and self.tx == other.tx)
        except ValueError:  # a loss that compares arrays
            return False

    @functools.cached_property
    def _gradient(self) -> Callable[..., Any]:
        return make_gradient(self.loss, has_aux=None, who="fit")

    def initial_carry(self, state: State, order_key: jax.Array, stop: Tree, reports: dict[str, Any]) -> Carry:
        """Return the carry of the first dispatch, with empty records for the shapes of a step's reports."""
        return Carry(
            state=state,
            order_key=order_key,
            stop=stop,
            ended=self.stop.met(stop),
            written=jnp.zeros((), jnp.int32),
            records={name: jnp.zeros((CAPACITY,), leaf.dtype) for name, leaf in reports.items()},
        )

    def reports(self, state: State, stop: Tree, batch: Tree) -> dict[str, Any]:
        """Return the reports of a step by name."""
        return self._step(state, stop, batch, weight=1.0)[1]

    def take_steps(self, carry: Carry, data: Tree, number: jax.Array) -> Carry:
        """Take a number of steps with full batches, or fewer if the descent ends."""

        def continues(carry: Carry) -> jax.Array:
            return (carry.written < number) & ~carry.ended

        def body(carry: Carry) -> Carry:
            return self._next_carry(carry, self._batch(carry, data))

        return jax.lax.while_loop(continues, body, carry._replace(written=jnp.zeros((), jnp.int32)))

    def take_incomplete_step(self, carry: Carry, data: Tree) -> Carry:
        """Take the step with the incomplete batch of an epoch; every example weighs the same as in a full one."""
        assert self.batching is not None
        carry = carry._replace(written=jnp.zeros((), jnp.int32))
        weight = self.batching.remainder / self.batching.batch_size
        return self._next_carry(carry, self._batch(carry, data, self.batching.remainder), weight)

    def take_step_with(self, carry: Carry, batch: Tree) -> Carry:
        """Take a step with a batch of an iterable, unless the descent has ended."""

        def step() -> Carry:
            return self._next_carry(carry, self.placement.constrain_batch(batch))

        return jax.lax.cond(carry.ended, lambda: carry, step)

    def observe(self, carry: Carry, seen: Mapping[str, Any]) -> Carry:
        """Update the criterion by metrics from outside the steps."""
        stop = self.stop.update(carry.stop, seen)
        return carry._replace(stop=stop, ended=self.stop.met(stop))

    def _batch(self, carry: Carry, data: Any, size: int | None = None) -> Any:
        if self.batching is None or self.batching.is_full_batch:
            return self.placement.constrain_batch(data)
        rows = self.batching.rows(carry.order_key, carry.state.count, size or self.batching.batch_size)
        return self.placement.gather_rows(data, rows)

    def _next_carry(self, carry: Carry, batch: Any, weight: float = 1.0) -> Carry:
        (state, stop), reports = self._step(carry.state, carry.stop, batch, weight)
        records = {name: rows.at[carry.written].set(reports[name]) for name, rows in carry.records.items()}
        ended, state = self.stop.met(stop), self.placement.constrain_state(state)
        return carry._replace(state=state, stop=stop, ended=ended, written=carry.written + 1, records=records)

    def _step(self, state: State, stop: Any, batch: Any, weight: float) -> tuple[tuple[State, Any], dict[str, Any]]:
        """Take one step; if loss or gradient are not finite, it changes only the count."""
        gradient, value_fn = self._gradient(state.params, batch, state.step_key(), state.extra)
        norm = norms.global_scaled_norm(gradient.grads).finite_norm()
        finite = jnp.isfinite(gradient.value) & jnp.isfinite(norm)
        scaled, scaled_fn = _scale_loss(weight, gradient, value_fn)
        # the count stays out of the branches: inside, a step of digits took 1.5 times as long on XLA:CPU
        changed = jax.lax.cond(
            finite,
            lambda: _changing(apply_gradients(self.tx, state, scaled, scaled_fn, scaled.grads)),
            lambda: _changing(state),
        )
        new = state._replace(count=state.count + 1, **changed)
        reports = {"loss": gradient.value, "grad_norm": norm} | _learning_rate(self.tx, state.opt_state)
        reports |= {name: x for name, x in metrics(new.opt_state).items() if name not in reports}
        reports |= _aux_by_name(gradient.aux, {*RESERVED, *reports})
        stop = self.stop.update(stop, {"step": new.count, **reports})
        return (new, stop), reports


class Compiled:
    """The jitted functions of a program; each donates the buffers of the carry."""

    def __init__(self, program: Program):
        placed: dict[str, Any] = {}
        if (mesh := program.placement.mesh) is not None:  # with other shardings the next dispatch would recompile
            replicated = jax.sharding.NamedSharding(mesh, REPLICATED)
            others: list[Any] = [replicated] * (len(Carry._fields) - 1)
            placed["out_shardings"] = Carry(program.placement.state_shardings(), *others)
        jit = functools.partial(jax.jit, donate_argnums=0, **placed)
        self.take_steps = jit(program.take_steps)
        self.take_incomplete_step = jit(program.take_incomplete_step)
        self.take_step_with = jit(program.take_step_with)
        self.observe = jit(program.observe)
        self.reports = jax.jit(program.reports)


@functools.lru_cache(maxsize=16)
def compiled(program: Program) -> Compiled:
    """Return the same functions for equal programs. Few are cached: each holds the loss and all it closes over."""
    return Compiled(program)


def _changing(state: State) -> dict[str, Any]:
    """Return the fields that a finite step changes."""
    return {"params": state.params, "opt_state": state.opt_state, "extra": state.extra}


def _scale_loss(weight: float, gradient: Any, value_fn: Any) -> Any:
    """Return the gradient and the loss function of a weighted loss."""
    if weight == 1.0:
        return gradient, value_fn
    grads = jax.tree.map(lambda g: weight * g, gradient.grads)
    return gradient._replace(value=weight * gradient.value, grads=grads), lambda params: weight * value_fn(params)


def _learning_rate(tx: Any, opt_state: Any) -> dict[str, Any]:
    """Return the learning rate of the next update, if the optimizer has exactly one."""
    names = hyperparams(tx) if isinstance(tx, GradientTransform) else ()
    paths = [path for path in names if path[-1] == "learning_rate"]
    if len(paths) != 1 or (rate := get(tx, paths[0])) is None:
        return {}
    if callable(rate):  # a schedule of its own updates: a wrapper may make fewer than one a step
        counts = [node.count for node in jax.tree.leaves(opt_state, is_leaf=_is_scheduled) if _is_scheduled(node)]
        return {"learning_rate": jnp.asarray(rate(counts[0]), float)} if len(counts) == 1 else {}
    return {"learning_rate": jnp.asarray(rate, float)}


def _is_scheduled(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def _aux_by_name(aux: Any, taken: set[str]) -> dict[str, Any]:
    """Return the scalars in `aux` by path."""
    named = {path or "aux": leaf for path, leaf in tree.leaves_with_paths(aux)}
    for name, leaf in named.items():
        if jnp.shape(leaf):
            raise ValueError(f"fit: aux must hold scalars, got shape {jnp.shape(leaf)} at {name!r}.")
    require_free_names("aux", named, taken)
    return named


def require_free_names(who: str, names: Iterable[str], taken: Collection[str]) -> None:
    """Raise for names that the history uses for something else."""
    if used := sorted({*names} & {*taken}):
        raise ValueError(
            f"fit: {who} must not have the name of a metric that every step reports, got {used[0]!r}. Rename it."
        )
