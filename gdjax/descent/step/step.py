"""One step of descent as a pure function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from gdjax import axes, norms, sharding, tree
from gdjax.compose.apply_updates import descend
from gdjax.descent.step.gradient import Gradient, make_gradient, require_trainable
from gdjax.descent.step.loss import require_loss
from gdjax.descent.step.weighting import Weight
from gdjax.explaining import explain_usage
from gdjax.value.diagnose import require_optimizer
from gdjax.value.printing import brief, text
from gdjax.value.traits import accumulates_weights, has_trait, local_grad_axes, refuse_example_grads


class State(NamedTuple):
    """All that a descent carries from step to step."""

    params: Any
    opt_state: Any
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """Steps taken, int32 of shape ()."""
    key: jax.Array
    """Of the whole descent; the key of one step is made of it and `count`."""
    extra: Any
    """What the loss hands on but is not descended on: batch statistics, say."""

    @classmethod
    def create(
        cls,
        params: Any,
        tx: optax.GradientTransformation,
        *,
        key: Any = 0,
        extra: Any = None,
        shardings: Any = None,
    ) -> "State":
        """The state before the first step.

        Args:
          params: a tree of floating or complex arrays. They are copied, as `key` and `extra` are: a step that donates
            the state leaves your arrays as they are. To keep one copy in memory, delete your own (`del params`) before
            the first step. If they lie on a mesh, so does all else, and the optimizer's state is sharded as they are.
          tx: the optimizer.
          key: a PRNG key, or the seed of one.
          extra: what a loss with a parameter `extra` gets and hands on.
          shardings: those of the optimizer's state, as `gd.sharding.zero` gives them; by default they follow `params`.
        """
        require_optimizer("State.create", tx)
        require_trainable("State.create", params)
        params, key, extra = _fresh((params, as_key("State.create", key), extra))
        return begun(params, key, extra, tx, shardings)

    def step_key(self) -> jax.Array:
        """The key of the next step."""
        return jax.random.fold_in(self.key, self.count)


def begun(params: Any, key: jax.Array, extra: Any, tx: Any, shardings: Any = None) -> State:
    """Return the state before the first step. It holds the arrays themselves: the caller must not use them again."""
    count = jnp.zeros((), jnp.int32)
    mesh = next((mesh for mesh in sharding.meshes(params) if mesh.size > 1), None)
    if mesh is None and shardings is None:
        opt_state = tree.fresh(tx.init(params))  # a lifted one may hold the parameters, and both may be donated
    else:
        opt_state = sharding.init(tx, params, shardings)
    if mesh is not None:
        count, key = jax.device_put((count, key), NamedSharding(mesh, PartitionSpec()))
    return State(params, opt_state, count, key, extra)


@explain_usage("make_step")
def make_step(
    loss: Callable[..., Any],
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    axis_name: Any = None,
    weight: Weight | None = None,
    batch_sharding: NamedSharding | None = None,
    has_aux: bool = False,
) -> Callable[[State, Any], tuple[State, dict[str, Any]]]:
    r"""Make the pure function of one step: `step(state, batch) -> (state, metrics)`.

    $\theta \leftarrow \theta + \mathrm{tx}(\nabla \ell(\theta; \text{batch}))$. It can be jitted, scanned, vmapped and
    pmapped; nothing is donated here. The optimizer also gets `value`, `grad` and `value_fn`, so that line searches,
    L-BFGS, Polyak's and MoMo's rules work.

    The metrics are `loss` and `grad_norm`, both before the update, and `aux` where the loss has it. Where an optimizer
    gets gradients that are each member's own, `grad_norm` is the root of the mean of their squared norms.

    Args:
      loss: `loss(params, batch)`, or `loss(params, batch, key)` with a key of its own at every step. It returns a real
        scalar. One that has a parameter `extra` gets `state.extra` and returns `(scalar, extra)`.
      tx: the optimizer, a value or one of Optax.
      accumulate: parts that a batch is cut into along its first axis, one after the other on the device: the mean of
        their gradients is descended on, and the memory is that of one part.
      axis_name: the axis (of `vmap`, `pmap` or `shard_map`) whose members each hold a part of the batch: gradients,
        loss and floating `extra` are their means, summed in float32 or wider, other `extra` the greatest; `aux` stays
        each member's own. The gradient is that of the mean of the losses that members return. A loss may return its
        member's own value, or end in a `pmean` or `psum` that all share. Name every axis over which the loss reduces
        and parameters are replicated. An optimizer with `mean_over`, `compressed_mean` or `shard_update` in it gets
        each member's gradient; under `local_steps` nothing is averaged over members.
      weight: `weight(batch)`, a real scalar of 0 at least, for each micro-batch of each member. Loss, gradients, floats
        in `extra`, and those in `aux` over micro-batches, are then weighted means, $\sum w g / \sum w$ over all
        micro-batches and members at once; 0 if all weights are 0. Give the number of true examples, or of tokens,
        where it differs. A micro-batch or member of weight 0 adds nothing, even if its gradient is not finite.
        `gd.accumulate` in the optimizer gets the sum of the weights, and weighs steps by it.
      batch_sharding: under `jit`, how the first axis of the batch is divided over a mesh: with `accumulate` each device
        then sums the gradients of its own part, in full size and with keys of its own, and they are reduced once, at
        the end. Explicit axes tell it by themselves, unless parameters are divided over the same axis; where axes are
        Auto and it is left out, XLA may reduce at every part.
      has_aux: whether the loss returns `(scalar, aux)`, and with `extra` `(scalar, (extra, aux))`.

    Raises:
      TypeError: if the loss is not a real scalar, or the parameters are not floating or complex.
      ValueError: if a batch cannot be cut evenly, or `extra` changes its type. Also if an argument has no effect:
        `batch_sharding` without `accumulate`; `weight` for a single micro-batch, without an axis or under
        `local_steps`; `weight` for a loss that all members share by its type.

    >>> import gdjax as gd
    >>> step = gd.make_step(lambda w, batch: (w - 2.0) ** 2, gd.sgd(0.1))
    >>> state, metrics = step(gd.State.create(5.0, gd.sgd(0.1)), None)
    >>> print(state.params, metrics["loss"], metrics["grad_norm"])
    4.4 9.0 6.0
    """
    require_loss("make_step", loss, tx)
    require_optimizer("make_step", tx)
    refuse_example_grads("make_step", tx, "tx")
    _require_axis(axis_name, tx)
    _require_effect(accumulate, axis_name, weight, batch_sharding, tx)
    own, apart = (has_trait(tx, trait) for trait in ("takes_local_grads", "local_params"))
    mine = own and not apart
    gradient = make_gradient(
        loss,
        accumulate=accumulate,
        axis_name=axis_name,
        weight=weight,
        apart=apart,
        batch_sharding=batch_sharding,
        has_aux=has_aux,
    )

    def step(state: State, batch: Any) -> tuple[State, dict[str, Any]]:
        if not isinstance(state, State):
            raise TypeError(f"make_step: step takes a State, as State.create makes it, got {_no_state(state, batch)}.")
        at, value_fn = gradient(state.params, batch, state.step_key(), state.extra)
        grads = at.own if mine else at.grads
        norm = norms.rms_over_axis(norms.global_norm(grads), axis_name if mine else None)
        metrics = {"loss": at.value, "grad_norm": norm} | ({"aux": at.aux} if has_aux else {})
        return descended(tx, state, at, value_fn, grads), metrics

    step.__qualname__ = "step"  # Python names it so where an argument is missing
    return step


def _no_state(given: Any, batch: Any) -> str:
    """Say what a step was given instead of a state, and the fix."""
    if isinstance(batch, State):
        return "the batch; the state comes first: step(state, batch)"
    if isinstance(given, tuple) and any(isinstance(part, State) for part in given):
        return "a tuple with one in it; a step returns two things: state, metrics = step(state, batch)"
    return f"a {type(given).__name__}"


def descended(
    tx: optax.GradientTransformation, state: State, at: Gradient, value_fn: Callable[[Any], Any], grads: Any
) -> State:
    """The state after an update by gradients: those of the batch, or each member's own."""
    told = {"value": at.value, "grad": at.grads, "value_fn": value_fn}
    if at.weight is not None and accumulates_weights(tx):
        told["weight"] = at.weight
    params, opt_state = descend(tx, grads, state.opt_state, state.params, **told)
    count = jnp.asarray(optax.safe_increment(state.count))
    return State(params, opt_state, count, state.key, at.extra)


def _require_axis(axis_name: Any, tx: Any) -> None:
    """Refuse an axis that is not that of the optimizer."""
    if (over := local_grad_axes(tx)) and {*over} != {*axes.names(axis_name)}:
        wanted = " and ".join(map(repr, over))
        raise ValueError(
            f"make_step: axis_name must be {wanted}, over which the optimizer takes gradients from members, got "
            f"{axis_name!r}."
        )


def _require_effect(accumulate: Any, axis_name: Any, weight: Any, batch_sharding: Any, tx: Any) -> None:
    """Refuse arguments that change nothing beside the others."""
    if weight is not None and not callable(weight):
        raise TypeError(f"make_step: weight must be a function of the batch, got {text(weight)}.")
    if accumulate != 1:
        return
    weighs = weight is not None and not accumulates_weights(tx)
    if batch_sharding is not None and axis_name is None:
        raise ValueError(
            "make_step: batch_sharding has no effect without accumulate: jit divides a whole batch by itself. Leave it "
            "out, or give accumulate=2 or more."
        )
    if weighs and axis_name is None:
        raise ValueError(
            "make_step: weight has no effect on a single batch: it weighs members of an axis, or micro-batches, "
            "against each other. Give axis_name, or accumulate=2 or more, or leave it out."
        )
    if weighs and has_trait(tx, "local_params"):
        raise ValueError(
            "make_step: weight has no effect under local_steps, where each member descends by itself. Leave it out, or "
            "give accumulate=2 or more: it then weighs micro-batches."
        )


def require_no_axis(who: str, tx: Any) -> None:
    """Refuse an optimizer over a named axis where there is none."""
    if over := local_grad_axes(tx):
        raise ValueError(
            f"{who}: tx must take the gradient of the whole batch, which mesh= divides, and it takes those of members "
            f"of {', '.join(map(repr, over))}: leave it out (gd.sharding.zero divides the state as shard_update does), "
            "or take the steps of make_step(axis_name=) yourself."
        )


def as_key(who: str, key: Any) -> Any:
    """Return a key as it is, or make one from a seed.

    Raises:
      TypeError: if it is neither.
      ValueError: if the seed has more bits than JAX uses: 32, or 64 where `jax_enable_x64` is set.
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        bits = 64 if jax.dtypes.canonicalize_dtype(np.int64) == np.int64 else 32
        if not -(2 ** (bits - 1)) <= key < min(2**bits, 2**63):
            raise ValueError(f"{who}: key must be a PRNG key or a seed of {bits} bits, got {brief(key)}.")
        return jax.random.key(int(key))
    dtype = getattr(key, "dtype", None)
    raw = dtype == jnp.uint32 and jnp.shape(key)[-1:] != ()
    if dtype is None or not (raw or jnp.issubdtype(dtype, jax.dtypes.prng_key)):
        raise TypeError(f"{who}: key must be a PRNG key, jax.random.key(0), or the seed of one, 0, got {brief(key)}.")
    if number := jnp.shape(key)[: -1 if raw else None]:
        raise ValueError(f"{who}: key must be one PRNG key, got an array of them of shape {number}; give key[0].")
    return key


def _fresh(given: Any) -> Any:
    """Copy every array, so that donating the copy leaves the caller's as it is."""
    return jax.tree.map(lambda x: tree.fresh(x) if isinstance(x, (jax.Array, np.ndarray)) else x, given)
