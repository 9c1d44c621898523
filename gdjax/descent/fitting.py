"""Descend: full-batch, stochastic or by mini-batches, until it is done; resumed, it is as if it had never stopped."""

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from gdjax import sharding, tree
from gdjax.descent import stopping
from gdjax.descent.checkpoints import orbax as whole
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.data.batching import Plan, plan
from gdjax.descent.data.iterables import is_stream
from gdjax.descent.data.placement import Placement
from gdjax.descent.loop import program as loop
from gdjax.descent.loop.driver import descend
from gdjax.descent.loop.evaluation import Evaluate
from gdjax.descent.loop.progress import Callback
from gdjax.descent.loop.run import Request
from gdjax.descent.peers import Peers
from gdjax.descent.result import Fit
from gdjax.descent.step.gradient import require_trainable
from gdjax.descent.step.loss import require_loss
from gdjax.descent.step.step import State, as_key, begun, require_no_axis
from gdjax.descent.stopping import Criterion
from gdjax.explaining import explain_usage
from gdjax.prng import is_key, plain
from gdjax.value.diagnose import MAX_COUNT, require_count, require_optimizer
from gdjax.value.printing import brief, text


@explain_usage("fit")
def fit(
    loss: Callable[..., Any],
    params: Any,
    tx: Any,
    data: Any = None,
    *,
    batch_size: int | str = "full",
    drop_remainder: bool = True,
    epochs: int | None = None,
    steps: int | None = None,
    stop: Criterion | None = None,
    evaluate: Callable[..., Any] | Evaluate | None = None,
    checkpoint: Checkpoints | str | os.PathLike[str] | None = None,
    resume: bool | str = False,
    key: Any = 0,
    mesh: Mesh | NamedSharding | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    r"""Descend on a loss from given parameters, and say how it went.

    Every step is $\theta \leftarrow \theta + \mathrm{tx}(\nabla \ell(\theta; \text{batch}))$. Many are one dispatch;
    how many follows the clock, and changes no number. A step whose loss or gradient is not finite changes nothing but
    the count, and ends the descent (`stop.nonfinite(n)` tolerates n): what was saved before it stays the newest, if
    anything was. The arrays given stay as they are.

    Args:
      loss: as in `make_step`; where it returns `(scalar, aux)`, the scalars in `aux` go into the history.
      params: where to begin: a tree of arrays, or a `State` (`fit.state` of a descent before, or one with `extra`).
      tx: the optimizer, a value or one of Optax.
      data: arrays in a tuple, dict or other tree, with one first axis of examples: they stay on the device. Or an
        iterable of batches (of a list, `iter` of it), which are put there ahead; where its iterator has `get_state` and
        `set_state`, as Grain's have, a checkpoint holds its state, else a resumed descent passes over what it had.
        `None` for a loss of the parameters alone.
      batch_size: of arrays, `"full"`, 1 or more: every epoch goes through all examples once, in an order of its own.
      drop_remainder: whether the examples that do not fill the last batch of an epoch are left out. Else they are a
        smaller batch, whose gradient is scaled by its share of a full one: every example weighs the same.
      epochs: times through the data; those of a checkpoint count, and of a `State` where data are arrays.
      steps: updates, in the place of epochs; those of a `State` or checkpoint count.
      stop: what ends it before: `gd.stop.target("accuracy", above=0.97) | gd.stop.seconds(60)`.
      evaluate: `evaluate(params)`, which returns a scalar or a dict of scalars; or `gd.Evaluate` of one, which says how
        often. It is called as it is (jit it), at `eval_params`, before the first step, then after every epoch (every
        100 steps where one is a step), and at the end. The arrays it gets are gone at the next step: copy what stays.
      checkpoint: a folder, or `gd.Checkpoints` of one.
      resume: whether to go on from the newest whole checkpoint, or to begin if there is none. Under another optimizer
        that is an error (functions, and so Optax's own optimizers, are told by name alone); `"params"` takes its
        parameters and where it stood, and begins the optimizer's state anew, `"state"` takes this too, if it fits.
      key: a PRNG key, or the seed of one: of the order of examples and of the loss.
      mesh: devices over all of whose axes every batch is divided, or the `NamedSharding` of a batch, over some of
        them. Parameters, or a `State`, that lie on the mesh stay as they are (FSDP; ZeRO-1 by `gd.sharding.zero`), and
        the optimizer's state follows them; what does not is whole on every device. Rows of arrays are divided over
        the devices; which make up a batch is as on one device, and so are the losses, but for the order of sums. See
        below for several processes.
      progress: whether to show it: a bar on a screen or in a notebook, else a line every ten seconds.
      callbacks: each is called with a `Progress` after every dispatch; one that returns `True` ends the descent, one
        that raises too, after all is saved.

    Where the devices of `mesh` are those of several processes (`jax.distributed.initialize` comes first), each calls
    `fit` with the same arguments: the same whole arrays, of which it puts its part on its devices, or arrays that are
    global already; an iterable yields in each that process's part of every batch, the parts in the order of processes.
    What `evaluate` or a callback does with its arrays by JAX, it does in all of them, or one waits for the rest.
    The clock, what is evaluated and what is shown are those of the first; a signal, a callback that returns `True`, or
    one that raises, as `evaluate` and an iterable may, in one of them ends all at the same step. The folder of
    checkpoints is one that all share; it is resumed on any number of processes and devices. How soon a process that is
    gone is noticed is said to `jax.distributed.initialize`: `heartbeat_timeout_seconds` (100 by default; JAX itself
    ends the others then, if no collective has failed before; Gloo's give up after 30 seconds) and
    `shutdown_timeout_seconds` (300, which a process that ends waits for the others).

    Returns:
      A `Fit`. Ctrl-C ends the descent as a criterion does. SIGTERM, where there is a checkpoint, saves and exits with
      status 143.

    Raises:
      TypeError: if the loss is not a real scalar, or parameters are not floating or complex.
      ValueError: if arguments do not fit together: data of different lengths, a batch larger than the data, ...
      CheckpointError: if nothing can be saved or read; what was saved before stays as it was.
      PeerLostError: if another process is gone; end this one by `os._exit`, or its shutdown waits for that one.
      PeerFailedError: if another process failed and all end together; what all find wrong alike the first alone raises
        as what it is.

    >>> import gdjax as gd
    >>> fit = gd.fit(lambda w, batch: (w - 2.0) ** 2, 5.0, gd.sgd(0.1), steps=100, progress=False)
    >>> print(f"{fit.params:.4f} {fit.history['loss'][1]:.4f}", fit.stopped)
    2.0000 5.7600 steps
    """
    placement = Placement.of(mesh)
    peers = Peers(placement.mesh)
    streamed = is_stream(data)

    def checked() -> tuple[Any, ...]:
        _require_length(epochs, steps, stop)
        _require_order(loss, params, tx, data)
        require_no_axis("fit", tx)
        if resume not in (False, True, "params", "state"):
            raise ValueError(f'fit: resume must be a boolean, "params" or "state", got {resume!r}.')
        if resume and checkpoint is None:
            raise ValueError("fit: resume needs the checkpoint to resume from.")
        if not isinstance(drop_remainder, bool):
            raise TypeError(f"fit: drop_remainder must be True or False, got {drop_remainder!r}.")
        if streamed and (batch_size != "full" or not drop_remainder):
            must = "batch_size and drop_remainder are for arrays"
            raise ValueError(f"fit: {must}; an iterable yields batches as they are.")
        if not drop_remainder and (data is None or batch_size == "full"):
            raise ValueError(
                "fit: drop_remainder=False has no effect where every batch holds all data: give batch_size, or leave "
                "it out."
            )
        cut = None if streamed else plan(data, batch_size, drop_remainder)
        if cut:
            _require_divisible(cut, placement, data)
            _require_countable(epochs, cut)
        if isinstance(params, State):
            _require_counted(params.count)
        else:
            require_trainable("fit", params)
            if not jax.tree.leaves(params):
                raise ValueError(f"fit: params must hold one array at least, got {brief(params)}.")
        saving = checkpoint if checkpoint is None or isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
        _require_functions(callbacks)
        return cut, saving, Evaluate.of(evaluate), as_key("fit", key)

    cut, saving, evaluating, whole_key = peers.together(checked)
    asked = {"tx": text(tx), "epochs": epochs, "steps": steps, "stop": stop, "batches": cut, "resume": resume}
    asked |= {"evaluate": evaluating and f"one every {evaluating.every}", "checkpoint": saving}
    if words := peers.differing(lambda: asked | _summed(params=params, key=whole_key, data=None if streamed else data)):
        raise ValueError(f"fit: every process must be given the same {words}.")
    of_state, of_order = jax.random.split(whole_key)
    started = placement.placed(tree.fresh(params))
    state = started if isinstance(params, State) else _begun(started, tx, of_state, placement)
    placement = placement.keeping(state)
    request = Request(
        program=loop.Program(loss, tx, stopping.guarded(stop), cut, placement),
        state=state,
        order_key=placement.placed(of_order),
        data=data if streamed else placement.divided(data),
        peers=peers,
        epochs=epochs,
        steps=epochs * cut.per_epoch if epochs and cut else steps,
        evaluate=evaluating,
        checkpoint=saving,
        resume=resume,
        callbacks=tuple(callbacks),
    )
    return descend(request, progress)


def _summed(**trees: Any) -> dict[str, str]:
    """What arrays are, in a few words: their types, and a checksum of those that lie in this process."""

    def of(x: Any) -> str:
        if isinstance(x, jax.Array) and is_key(x):
            x = plain(x)
        bits = np.asarray(x) if not isinstance(x, jax.Array) or x.is_fully_addressable else np.zeros(0)
        return f"{jnp.result_type(x)}{list(np.shape(x))} {whole.checksum(bits)}"

    def words(arrays: Any) -> str:
        each = [f"{path} {of(x)}" for path, x in tree.leaves_with_paths(arrays)]
        return f"{len(each)} arrays of checksum {zlib.crc32(' '.join(each).encode()):08x}"

    return {name: words(arrays) for name, arrays in trees.items()}


def _begun(params: Any, tx: Any, key: jax.Array, placement: Placement) -> State:
    """The state before the first step, placed."""
    if placement.mesh is None:
        return jax.device_put(begun(params, key, None, tx))
    opt_state = sharding.init(tx, params, sharding.of_state(tx, params, placement.mesh))
    return placement.placed(State(params, opt_state, jnp.zeros((), jnp.int32), key, None))


def _require_divisible(cut: Plan, placement: Placement, data: Any) -> None:
    number = placement.parts
    if data is None and placement.mesh is not None:
        raise ValueError(f"fit: mesh divides batches, and there are no data for its {number} devices: leave it out.")
    for what, size in (("batch_size", cut.batch_size), ("the remainder of an epoch", cut.remainder)):
        if size % number:
            way = f"give batch_size={max(size // number, 1) * number}, or a mesh of fewer"
            raise ValueError(f"fit: {what} must be a multiple of the {number} devices of mesh, got {size}: {way}.")


def _require_order(loss: Any, params: Any, tx: Any, data: Any) -> None:
    """Refuse arguments in another order than loss, parameters, optimizer, data."""
    require_loss("fit", loss, params)
    for name, given in (("params", params), ("data", data)):
        if isinstance(given, optax.GradientTransformation):
            raise TypeError(f"fit: {name} must be arrays, got an optimizer; call fit(loss, params, tx, data).")
    require_optimizer("fit", tx)


def _require_functions(callbacks: Any) -> None:
    """Refuse callbacks that are not a list of functions."""
    if callable(callbacks):
        raise TypeError(f"fit: callbacks must be a list of functions, got one; write callbacks=[{brief(callbacks)}].")
    if wrong := [x for x in callbacks if not callable(x)]:
        raise TypeError(f"fit: each of callbacks must be a function of a Progress, got {brief(wrong[0])}.")


def _require_countable(epochs: int | None, cut: Plan) -> None:
    if epochs is not None and epochs * cut.per_epoch > MAX_COUNT:
        raise ValueError(
            f"fit: epochs must be at most {MAX_COUNT // cut.per_epoch:,} where each is {cut.per_epoch:,} steps, for "
            f"counts are int32, got {epochs:,}."
        )


def _require_counted(count: Any) -> None:
    if not jnp.issubdtype(jnp.result_type(count), jnp.integer) or jnp.ndim(count):
        raise TypeError(f"fit: the count of a State must be an integer of shape (), got {text(count)}.")
    if int(count) < 0:
        raise ValueError(f"fit: the count of a State must be 0 at least, got {int(count)}.")


def _require_length(epochs: Any, steps: Any, stop: Any) -> None:
    if (epochs is not None and steps is not None) or (epochs is None and steps is None and stop is None):
        raise ValueError(
            f"fit: say how long, by one of epochs and steps, or by stop; got {epochs=}, {steps=}, {stop=}."
        )
    for name, number in (("epochs", epochs), ("steps", steps)):
        if number is not None:
            require_count("fit", name, number)
    if stop is not None and not isinstance(stop, Criterion):
        way = f"; call it: gd.stop.{stop.__name__}(...)" if getattr(stop, "__module__", "") == stopping.__name__ else ""
        way = way or "; callbacks= takes functions of your own" * callable(stop)
        raise TypeError(f"fit: stop must be made of gd.stop (target, plateau, ...), got {brief(stop)}{way}.")
