"""Descend on a loss: full-batch, stochastic or by mini-batches. A resumed descent is the same to the bit."""

import os
import signal
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike

from gdjax import prng, sharding, tree
from gdjax.descent import stopping
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.orbax import checksum
from gdjax.descent.data.batching import Batching, make_batching
from gdjax.descent.data.iterables import is_iterable_of_batches
from gdjax.descent.data.placement import Placement
from gdjax.descent.loop.driver import drive, finish
from gdjax.descent.loop.evaluation import Evaluate
from gdjax.descent.loop.feeding import ArrayFeed, IterableFeed
from gdjax.descent.loop.program import Program, compiled
from gdjax.descent.loop.progress import Callback, show_progress
from gdjax.descent.loop.resuming import find_start
from gdjax.descent.loop.run import Limits, Run
from gdjax.descent.loop.saving import Saver
from gdjax.descent.loop.signals import STOP_REASONS, catch_signals
from gdjax.descent.peers import Peers
from gdjax.descent.result import Fit
from gdjax.descent.step.gradient import require_trainable
from gdjax.descent.step.loss import Loss, require_loss
from gdjax.descent.step.step import State, as_key, initial_state, require_no_axis
from gdjax.descent.stopping import Criterion
from gdjax.explaining import explain_usage
from gdjax.value.diagnose import MAX_COUNT, require_count, require_optimizer
from gdjax.value.printing import brief, text


@explain_usage("fit")
def fit(
    loss: Loss,
    params: optax.Params | State,
    tx: optax.GradientTransformation,
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
    key: ArrayLike = 0,
    mesh: Mesh | NamedSharding | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    r"""Descend on a loss from given parameters, until its length or a criterion ends it.

    Each step is $\theta \leftarrow \theta + \mathrm{tx}(\nabla \ell(\theta; \text{batch}))$. A step whose loss or
    gradient is not finite changes only the count, and ends the descent (`stop.nonfinite(n)` tolerates n - 1 of them).
    Your arrays stay as they are. Data, meshes, resuming and several processes are explained in docs/fit.md.

    Args:
      loss: as in `make_step`; if it returns `(scalar, aux)`, the scalars in `aux` go into the history.
      params: a tree of arrays, or a `State`: `fit.state` of an earlier descent, or one with `extra`.
      tx: the optimizer, a value or one of Optax.
      data: arrays with one first axis of examples, an iterable of batches, or `None` for a loss of `params` alone.
      batch_size: for arrays, `"full"` or at least 1; every epoch visits all examples once, in a new random order.
      drop_remainder: drop an incomplete last batch; else every example in it weighs the same as in a full one.
      epochs: passes through the data; those of a checkpoint count, and those of a `State` where data are arrays.
      steps: updates, instead of epochs; those of a `State` or checkpoint count.
      stop: a criterion that ends it earlier, such as `gd.stop.target("accuracy", above=0.97) | gd.stop.seconds(60)`.
      evaluate: `evaluate(params)` returns a scalar or a dict of scalars, every epoch; `gd.Evaluate` sets the interval.
      checkpoint: a folder, or `gd.Checkpoints`.
      resume: `True` resumes from the newest checkpoint, if there is one. `"params"` accepts another optimizer and
        resets its state; `"state"` keeps its state if it fits.
      key: a PRNG key, or the seed of one, for the order of examples and the loss.
      mesh: devices over whose axes every batch is sharded, or the `NamedSharding` of a batch over some of them.
      progress: show a bar on a terminal or in a notebook, else a line every ten seconds.
      callbacks: functions of a `Progress`, called after every dispatch; one that returns `True` ends the descent.

    Returns:
      A `Fit`. Ctrl-C ends the descent as a criterion does. SIGTERM with a checkpoint saves and exits with status 143.

    Raises:
      TypeError, ValueError: if an argument is invalid, or arguments do not fit together.
      CheckpointError: if no checkpoint can be saved or read; earlier ones stay intact.
      PeerLostError, PeerFailedError: if another process is gone or failed; see docs/fit.md.

    >>> import gdjax as gd
    >>> fit = gd.fit(lambda w, batch: (w - 2.0) ** 2, 5.0, gd.sgd(0.1), steps=100, progress=False)
    >>> print(f"{fit.params:.4f} {fit.history['loss'][1]:.4f}", fit.stopped)
    2.0000 5.7600 steps
    """
    placement = Placement.of(mesh)
    peers = Peers(placement.mesh)

    def validate() -> _Inputs:
        _require_length(epochs, steps, stop)
        _require_order(loss, params, tx, data)
        require_no_axis("fit", tx)
        _require_resume(resume, checkpoint)
        batching = _batching(data, batch_size, drop_remainder, epochs, placement)
        _require_params(params)
        options = Checkpoints.of(checkpoint)
        _require_functions(callbacks)
        return _Inputs(batching, options, Evaluate.of(evaluate), as_key("fit", key))

    def summarize(inputs: _Inputs) -> dict[str, Any]:
        return {
            "tx": text(tx), "epochs": epochs, "steps": steps, "stop": stop, "batches": inputs.batching,
            "resume": resume, "evaluate": inputs.evaluate and f"one every {inputs.evaluate.every}",
            "checkpoint": inputs.checkpoint, "params": _summarize(params), "key": _summarize(inputs.key),
            "data": _summarize(None if inputs.batching is None else data),
        }  # fmt: skip

    inputs = peers.agree(validate, summarize)
    batching, options = inputs.batching, inputs.checkpoint
    state_key, order_key = jax.random.split(inputs.key)
    state = _place_state(params, tx, state_key, placement)
    placement = placement.with_state(state)
    order_key = placement.place(order_key)
    program = Program(loss, tx, stopping.with_nonfinite(stop), batching, placement)
    if batching is not None:
        data = placement.shard_rows(data)
    saver, signals = Saver(options, peers), STOP_REASONS if options else (signal.SIGINT,)
    with peers.report_loss(lambda: saver.status):
        with saver, catch_signals(*signals) as caught, show_progress(progress and peers.is_first) as display:
            start = find_start(saver, state, order_key, program, resume, peers)
            if batching is None:
                saves = options is not None
                feed = IterableFeed(compiled(program), data, placement, peers, start.position, epochs, saves)
            else:
                feed = ArrayFeed(compiled(program), data, batching, peers)
                steps = epochs * batching.steps_per_epoch if epochs else steps
            run = Run(program, start, feed, Limits(epochs, steps), inputs.evaluate, saver, peers)
            run.start()
            if resume:
                resumed = f"resuming from step {run.step:,}"
                display.say(resumed if saver.has_checkpoint else "no checkpoint yet: starting over")
            ending = drive(run, (display.progress, *callbacks), caught)
        return finish(run, ending, callbacks)


class _Inputs(NamedTuple):
    """Validated inputs of `fit`."""

    batching: Batching | None
    """`None` for an iterable of batches."""
    checkpoint: Checkpoints | None
    evaluate: Evaluate | None
    key: jax.Array


def _place_state(params: Any, tx: optax.GradientTransformation, key: jax.Array, placement: Placement) -> State:
    """Return the state before the first step, or a given one, on its devices; the arrays are copies."""
    placed = placement.place(tree.fresh(params))
    if isinstance(params, State):
        return placed
    if placement.mesh is None:
        return jax.device_put(initial_state(placed, key, None, tx))
    opt_state = sharding.init(tx, placed, sharding.of_state(tx, placed, placement.mesh))
    return placement.place(State(placed, opt_state, jnp.zeros((), jnp.int32), key, None))


def _summarize(arrays: Any) -> str:
    """Describe arrays in a few words: their number, and a checksum of types, shapes and local content."""

    def describe(x: Any) -> str:
        if isinstance(x, jax.Array) and prng.is_key(x):
            x = prng.raw(x)
        content = np.asarray(x) if not isinstance(x, jax.Array) or x.is_fully_addressable else np.zeros(0)
        return f"{jnp.result_type(x)}{list(np.shape(x))} {checksum(content)}"

    leaves = [f"{path} {describe(x)}" for path, x in tree.leaves_with_paths(arrays)]
    return f"{len(leaves)} arrays of checksum {zlib.crc32(' '.join(leaves).encode()):08x}"


def _batching(
    data: Any, batch_size: int | str, drop_remainder: bool, epochs: int | None, placement: Placement
) -> Batching | None:
    """Return the batches of arrays; `None` for an iterable of batches."""
    if not isinstance(drop_remainder, bool):
        raise TypeError(f"fit: drop_remainder must be True or False, got {drop_remainder!r}.")
    is_iterable = is_iterable_of_batches(data)
    if is_iterable and (batch_size != "full" or not drop_remainder):
        raise ValueError("fit: batch_size and drop_remainder are for arrays; an iterable yields batches as they are.")
    if not drop_remainder and (data is None or batch_size == "full"):
        raise ValueError(
            "fit: drop_remainder=False has no effect where every batch holds all data: give batch_size, or leave it "
            "out."
        )
    if is_iterable:
        return None
    batching = make_batching(data, batch_size, drop_remainder)
    _require_divisible(batching, placement, data)
    if epochs is not None and epochs * batching.steps_per_epoch > MAX_COUNT:
        raise ValueError(
            f"fit: epochs must be at most {MAX_COUNT // batching.steps_per_epoch:,} where each is "
            f"{batching.steps_per_epoch:,} steps, since counts are int32, got {epochs:,}."
        )
    return batching


def _require_divisible(batching: Batching, placement: Placement, data: Any) -> None:
    number = placement.shards
    if data is None and placement.mesh is not None:
        raise ValueError(f"fit: mesh shards batches, and there are no data for its {number} devices: leave it out.")
    for name, size in (("batch_size", batching.batch_size), ("the remainder of an epoch", batching.remainder)):
        if size % number:
            fix = f"give batch_size={max(size // number, 1) * number}, or a mesh of fewer"
            raise ValueError(f"fit: {name} must be a multiple of the {number} devices of mesh, got {size}: {fix}.")


def _require_order(loss: Any, params: Any, tx: Any, data: Any) -> None:
    """Raise if arguments are in another order than loss, params, tx, data."""
    require_loss("fit", loss, params)
    for name, given in (("params", params), ("data", data)):
        if isinstance(given, optax.GradientTransformation):
            raise TypeError(f"fit: {name} must be arrays, got an optimizer; call fit(loss, params, tx, data).")
    require_optimizer("fit", tx)


def _require_resume(resume: Any, checkpoint: Any) -> None:
    if resume not in (False, True, "params", "state"):
        raise ValueError(f'fit: resume must be a boolean, "params" or "state", got {resume!r}.')
    if resume and checkpoint is None:
        raise ValueError("fit: resume needs the checkpoint to resume from.")


def _require_params(params: Any) -> None:
    if isinstance(params, State):
        count = params.count
        if not jnp.issubdtype(jnp.result_type(count), jnp.integer) or jnp.ndim(count):
            raise TypeError(f"fit: the count of a State must be an integer of shape (), got {text(count)}.")
        if int(count) < 0:
            raise ValueError(f"fit: the count of a State must be at least 0, got {int(count)}.")
        return
    require_trainable("fit", params)
    if not jax.tree.leaves(params):
        raise ValueError(f"fit: params must hold at least one array, got {brief(params)}.")


def _require_functions(callbacks: Any) -> None:
    """Raise unless callbacks are a list of functions."""
    if callable(callbacks):
        raise TypeError(f"fit: callbacks must be a list of functions, got one; write callbacks=[{brief(callbacks)}].")
    if wrong := [x for x in callbacks if not callable(x)]:
        raise TypeError(f"fit: each of callbacks must be a function of a Progress, got {brief(wrong[0])}.")


def _require_length(epochs: Any, steps: Any, stop: Any) -> None:
    if (epochs is not None and steps is not None) or (epochs is None and steps is None and stop is None):
        raise ValueError(f"fit: give a length: epochs or steps, or a criterion stop; got {epochs=}, {steps=}, {stop=}.")
    for name, number in (("epochs", epochs), ("steps", steps)):
        if number is not None:
            require_count("fit", name, number)
    if stop is not None and not isinstance(stop, Criterion):
        is_factory = getattr(stop, "__module__", "") == stopping.__name__
        hint = f"; call it: gd.stop.{stop.__name__}(...)" if is_factory else ""
        hint = hint or "; callbacks= takes functions of your own" * callable(stop)
        raise TypeError(f"fit: stop must be made of gd.stop (target, plateau, ...), got {brief(stop)}{hint}.")
