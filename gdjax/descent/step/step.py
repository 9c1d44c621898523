"""One step of descent as a pure function, and the state that it carries."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from gdjax import axes, norms, sharding, tree
from gdjax.compose.apply_updates import descend
from gdjax.descent.step.gradient import Gradient, LossFunction, make_gradient, require_trainable
from gdjax.descent.step.loss import Loss, require_loss
from gdjax.descent.step.weighting import Weight
from gdjax.explaining import explain_usage
from gdjax.tree import Tree
from gdjax.value.diagnose import require_optimizer
from gdjax.value.printing import brief, text
from gdjax.value.traits import accumulates_weights, has_trait, local_grad_axes, refuse_example_grads


class State(NamedTuple):
    """State of a descent, carried from step to step."""

    params: Any
    opt_state: Any
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """Steps taken, int32 of shape ()."""
    key: jax.Array
    """Key of the whole descent; the key of one step is derived from it and `count`."""
    extra: Any
    """State of the loss that is not descended on, such as batch statistics."""

    @classmethod
    def create(
        cls,
        params: optax.Params,
        tx: optax.GradientTransformation,
        *,
        key: ArrayLike = 0,
        extra: Tree = None,
        shardings: optax.OptState | None = None,
    ) -> "State":
        """Create the state before the first step.

        Args:
          params: a tree of floating or complex arrays. They are copied, as `key` and `extra` are: a step that donates
            the state leaves your arrays as they are. To keep one copy in memory, delete your own (`del params`) before
            the first step. If they lie on a mesh, so does all else, and the optimizer's state is sharded as they are.
          tx: the optimizer.
          key: a PRNG key, or the seed of one.
          extra: passed to a loss with a parameter `extra`, which returns the next one.
          shardings: those of the optimizer's state, from `gd.sharding.zero`; by default they follow `params`.
        """
        require_optimizer("State.create", tx)
        require_trainable("State.create", params)
        params, key, extra = _copy_arrays((params, as_key("State.create", key), extra))
        return initial_state(params, key, extra, tx, shardings)

    def step_key(self) -> jax.Array:
        """Return the key of the next step."""
        return jax.random.fold_in(self.key, self.count)


def initial_state(
    params: optax.Params,
    key: ArrayLike,
    extra: Tree,
    tx: optax.GradientTransformation,
    shardings: optax.OptState | None = None,
) -> State:
    """Return the state before the first step. It takes ownership of the arrays: do not use them again."""
    count = jnp.zeros((), jnp.int32)
    mesh = next((mesh for mesh in sharding.meshes(params) if mesh.size > 1), None)
    if mesh is None and shardings is None:
        opt_state = tree.fresh(tx.init(params))  # a lifted state may alias the parameters, and both may be donated
    else:
        opt_state = sharding.init(tx, params, shardings)
    if mesh is not None:
        count, key = jax.device_put((count, key), NamedSharding(mesh, PartitionSpec()))
    return State(params, opt_state, count, key, extra)  # pyright: ignore[reportArgumentType]


@explain_usage("make_step")
def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    axis_name: axes.AxisName = None,
    weight: Weight | None = None,
    batch_sharding: NamedSharding | None = None,
    has_aux: bool = False,
) -> Callable[[State, Any], tuple[State, dict[str, Any]]]:
    r"""Make the pure function of one step: `step(state, batch) -> (state, metrics)`.

    $\theta \leftarrow \theta + \mathrm{tx}(\nabla \ell(\theta; \text{batch}))$. You can jit, scan, vmap and pmap it;
    it donates nothing. The optimizer also gets `value`, `grad` and `value_fn`, so line searches, L-BFGS and the rules
    of Polyak and MoMo work.

    The metrics are `loss` and `grad_norm`, both before the update, and `aux` if the loss has it. For an optimizer that
    takes per-device gradients, `grad_norm` is the root mean square of their norms.

    Args:
      loss: `loss(params, batch)`, or `loss(params, batch, key)` with a fresh key at every step. It returns a real
        scalar. One with a parameter `extra` gets `state.extra` and returns `(scalar, extra)`.
      tx: the optimizer, a value or one of Optax.
      accumulate: micro-batches that a batch is split into along its first axis. They run one after the other on the
        device; the step descends on the mean of their gradients, in the memory of one micro-batch.
      axis_name: the axis (of `vmap`, `pmap` or `shard_map`) over which the batch is split. Gradients, loss and
        floating `extra` are averaged over it in float32 or wider. Other `extra` is the maximum; `aux` stays local.
        The gradient is that of the mean of the losses that the devices return. A loss may return a local value, or
        end in a `pmean` or `psum`. Name every axis over which the loss reduces and parameters are replicated. An
        optimizer that contains `mean_over`, `compressed_mean` or `shard_update` gets the per-device gradients; under
        `local_steps` nothing is averaged over devices.
      weight: `weight(batch)`, a real scalar of at least 0, for each micro-batch of each device. Loss, gradients,
        floats in `extra`, and floats in `aux` over micro-batches are then weighted means, $\sum w g / \sum w$ over all
        micro-batches and devices at once; 0 if all weights are 0. Return the number of true examples or tokens where
        it differs. A micro-batch or device of weight 0 adds nothing, even if its gradient is not finite. Inside the
        optimizer, `gd.accumulate` gets the sum of the weights, and weighs steps by it.
      batch_sharding: under `jit`, how the first axis of the batch is sharded over a mesh. With `accumulate`, each
        device then sums its local gradients, in full size and with a key per device, and they are reduced once at the
        end. Explicit axes need no argument, unless parameters are sharded over the same axis. Without it, on Auto
        axes, XLA may reduce at every micro-batch.
      has_aux: True if the loss returns `(scalar, aux)`, or with `extra` `(scalar, (extra, aux))`.

    Raises:
      TypeError: if the loss is not a real scalar, or the parameters are not floating or complex.
      ValueError: if a batch does not split evenly, or `extra` changes its type. Also if an argument has no effect:
        `batch_sharding` without `accumulate`; `weight` for a single micro-batch, without an axis or under
        `local_steps`; `weight` for a loss that is invariant by its type.

    >>> import gdjax as gd
    >>> step = gd.make_step(lambda w, batch: (w - 2.0) ** 2, gd.sgd(0.1))
    >>> state, metrics = step(gd.State.create(5.0, gd.sgd(0.1)), None)
    >>> print(state.params, metrics["loss"], metrics["grad_norm"])
    4.4 9.0 6.0
    """
    require_loss("make_step", loss, tx)
    require_optimizer("make_step", tx)
    refuse_example_grads("make_step", tx, "tx")
    _require_optimizer_axis(axis_name, tx)
    _require_effect(accumulate, axis_name, weight, batch_sharding, tx)
    takes_local_grads, has_local_params = (has_trait(tx, trait) for trait in ("takes_local_grads", "local_params"))
    uses_local_grads = takes_local_grads and not has_local_params
    gradient = make_gradient(
        loss,
        accumulate=accumulate,
        axis_name=axis_name,
        weight=weight,
        local=has_local_params,
        batch_sharding=batch_sharding,
        has_aux=has_aux,
    )

    def step(state: State, batch: Any) -> tuple[State, dict[str, Any]]:
        if not isinstance(state, State):
            raise TypeError(f"make_step: step takes a State, made by State.create, got {_not_a_state(state, batch)}.")
        at, value_fn = gradient(state.params, batch, state.step_key(), state.extra)
        grads = at.local_grads if uses_local_grads else at.grads
        norm = norms.rms_over_axis(norms.global_norm(grads), axis_name if uses_local_grads else None)
        metrics = {"loss": at.value, "grad_norm": norm} | ({"aux": at.aux} if has_aux else {})
        return apply_gradients(tx, state, at, value_fn, grads), metrics

    step.__qualname__ = "step"  # Python prints this name if an argument is missing
    return step


def _not_a_state(given: Any, batch: Any) -> str:
    """Describe the first argument of a step that is not a state, with the fix."""
    if isinstance(batch, State):
        return "the batch; the state comes first: step(state, batch)"
    if isinstance(given, tuple) and any(isinstance(part, State) for part in given):
        return "a tuple with one in it; a step returns two values: state, metrics = step(state, batch)"
    return f"a {type(given).__name__}"


def apply_gradients(
    tx: optax.GradientTransformation, state: State, at: Gradient, value_fn: LossFunction, grads: optax.Updates
) -> State:
    """Return the next state.

    Args:
      tx: the optimizer.
      state: the state before the update.
      at: the gradient at that state.
      value_fn: the loss of the batch as a function of the parameters.
      grads: the gradients for the optimizer: the mean over an axis, or those of this device.
    """
    extra_args = {"value": at.value, "grad": at.grads, "value_fn": value_fn}
    if at.weight is not None and accumulates_weights(tx):
        extra_args["weight"] = at.weight
    params, opt_state = descend(tx, grads, state.opt_state, state.params, **extra_args)
    count = jnp.asarray(optax.safe_increment(state.count))
    return State(params, opt_state, count, state.key, at.extra)


def _require_optimizer_axis(axis_name: Any, tx: Any) -> None:
    """Raise unless the axis is the one over which the optimizer reduces, if it reduces over any."""
    if (over := local_grad_axes(tx)) and {*over} != {*axes.names(axis_name)}:
        wanted = " and ".join(map(repr, over))
        raise ValueError(
            f"make_step: axis_name must be {wanted}, over which the optimizer reduces per-device gradients, got "
            f"{axis_name!r}."
        )


def _require_effect(accumulate: Any, axis_name: Any, weight: Any, batch_sharding: Any, tx: Any) -> None:
    """Raise for arguments that have no effect beside the others."""
    if weight is not None and not callable(weight):
        raise TypeError(f"make_step: weight must be a function of the batch, got {text(weight)}.")
    if accumulate != 1:
        return
    only_here = weight is not None and not accumulates_weights(tx)
    if batch_sharding is not None and axis_name is None:
        raise ValueError(
            "make_step: batch_sharding has no effect without accumulate: jit shards a single batch by itself. Leave it "
            "out, or give accumulate=2 or more."
        )
    if only_here and axis_name is None:
        raise ValueError(
            "make_step: weight has no effect on a single batch: it weighs devices of an axis, or micro-batches, "
            "against each other. Give axis_name, or accumulate=2 or more, or leave it out."
        )
    if only_here and has_trait(tx, "local_params"):
        raise ValueError(
            "make_step: weight has no effect under local_steps, where each device descends by itself. Leave it out, or "
            "give accumulate=2 or more: it then weighs micro-batches."
        )


def require_no_axis(who: str, tx: optax.GradientTransformation) -> None:
    """Raise for an optimizer that reduces over a named axis, where there is none."""
    if over := local_grad_axes(tx):
        raise ValueError(
            f"{who}: tx must take the gradient of the global batch, which mesh= shards, and it reduces per-device "
            f"gradients over {', '.join(map(repr, over))}. Leave that part out (gd.sharding.zero shards the state as "
            "shard_update does), or write the loop yourself with make_step(axis_name=)."
        )


def as_key(who: str, key: ArrayLike) -> jax.Array:
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
    if shape := jnp.shape(key)[: -1 if raw else None]:
        raise ValueError(f"{who}: key must be one PRNG key, got an array of keys of shape {shape}; give key[0].")
    return key  # pyright: ignore[reportReturnType]


def _copy_arrays(values: Any) -> Any:
    """Copy every array, so that donating the copy leaves the caller's as it is."""
    return jax.tree.map(lambda x: tree.fresh(x) if isinstance(x, (jax.Array, np.ndarray)) else x, values)
