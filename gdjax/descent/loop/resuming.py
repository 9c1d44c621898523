"""Resume a descent from a checkpoint."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from gdjax.descent.checkpoints.optimizer_diff import optimizer_difference
from gdjax.descent.checkpoints.orbax import Saved
from gdjax.descent.checkpoints.state_keys import restore_state
from gdjax.descent.errors import CheckpointError
from gdjax.descent.history import History, select_prefix
from gdjax.descent.loop.program import Program
from gdjax.descent.loop.saving import Saver, descent_arrays, program_record
from gdjax.descent.peers import Peers
from gdjax.descent.step.step import State
from gdjax.prng import typed_like


class Start(NamedTuple):
    """State of a descent where a run begins: new, or at a checkpoint."""

    state: State
    order_key: jax.Array
    """Key of the order of examples."""
    stop: Any
    """State of the criterion."""
    history: History
    position: dict[str, Any] | None = None
    """Position in the iterable of this process."""
    seconds: float = 0.0
    """Duration of the runs before."""
    compiling: float = 0.0
    """Seconds of these spent on compilation."""


def find_start(
    saver: Saver, state: State, order_key: jax.Array, program: Program, resume: bool | str, peers: Peers
) -> Start:
    """Return where a run begins: at the newest intact checkpoint, or at a new state.

    Args:
      saver: the open folder of checkpoints.
      state: the new state; a restored one is placed like it.
      order_key: of the order of examples.
      program: of this run.
      resume: `False` requires an empty folder, `True` the same optimizer and batches. `"params"` accepts another
        optimizer and resets its state, and `"state"` keeps its state if it fits.
      peers: the processes of the descent.

    Raises:
      CheckpointError: if the folder holds another descent, or no checkpoint can be read.
    """
    new = Start(state, order_key, program.stop.init(), History())
    if saver.store is None:
        return new
    if not resume:
        step = saver.store.latest()
        peers.call_on_all(lambda: _require_empty(saver.folder, step))
        return new
    newest = saver.store.newest(descent_arrays(state, order_key))
    if newest is None:
        return new
    saver.saved_step, saved = newest
    return peers.call_on_all(lambda: _restore(saver.folder, saved, new, program, resume, peers))


def _require_empty(folder: str, step: int | None) -> None:
    if step is not None:
        raise CheckpointError(
            f"fit: {folder} already holds a descent of {step:,} steps: resume=True resumes it, or give another folder."
        )


def _restore(folder: str, saved: Saved, new: Start, program: Program, resume: bool | str, peers: Peers) -> Start:
    """Return a checkpoint as a start, with the arrays placed like those of a new one."""
    arrays, about, state = saved.arrays, saved.about, new.state
    record = program_record(program, state)
    is_same = _is_same_optimizer(folder, about, program, resume)
    _require_same_data(folder, about, record, resume)
    if about["key"] != record["key"]:
        raise CheckpointError(
            f"fit: {folder} was made with another kind of key: {about['key']} then, {record['key']} now."
        )
    keeps_state = is_same or resume != "params"
    restored = State(
        params=_restore_part(folder, "params", arrays, state.params),
        opt_state=_restore_part(folder, "opt_state", arrays, state.opt_state) if keeps_state else state.opt_state,
        count=arrays["count"],
        key=typed_like(arrays["key"], state.key),
        extra=_restore_part(folder, "extra", arrays, state.extra),
    )
    stop = new.stop
    if is_same and about["stop"] == record["stop"]:
        leaves, structure = jax.tree.flatten(new.stop)
        stop = jax.tree.unflatten(structure, [arrays[f"stop/{i}"] for i in range(len(leaves))])
    return Start(
        state=restored,
        order_key=typed_like(arrays["order_key"], new.order_key),
        stop=stop,
        history=History.of_arrays(select_prefix("history/", arrays)),
        position=_local_position(folder, about["stream"], peers),
        seconds=about.get("seconds", 0.0),
        compiling=about.get("compiling", 0.0),
    )


def _is_same_optimizer(folder: str, about: Mapping[str, Any], program: Program, resume: bool | str) -> bool:
    difference = optimizer_difference(about["optimizer"], program.tx)
    if difference and resume is True:
        raise CheckpointError(
            f'fit: {folder} was made under another optimizer: {difference}. resume="params" restores the parameters '
            'and resets the optimizer\'s state, resume="state" restores its state too.'
        )
    return not difference


def _require_same_data(folder: str, about: Mapping[str, Any], record: Mapping[str, str], resume: bool | str) -> None:
    if about["data"] != record["data"] and resume is True:
        raise CheckpointError(
            f"fit: {folder} was made with other batches: {about['data']} then, {record['data']} now. "
            'resume="state" resumes with these, at the place in the data that the count gives.'
        )


def _restore_part(folder: str, name: str, arrays: Mapping[str, Any], like: Any) -> Any:
    try:
        return restore_state(select_prefix(f"{name}/", arrays), like)
    except ValueError as error:
        raise CheckpointError(
            f"fit: {folder} holds other {name} than these: {str(error).removeprefix('restore_state: ')}"
        ) from None


def _local_position(folder: str, positions: list[Any], peers: Peers) -> Any:
    """Return the position of this process in its iterable; each process has one, unless all are equal."""
    if all(position == positions[0] for position in positions):
        return positions[0]
    if len(positions) != len(peers.processes):
        raise CheckpointError(
            f"fit: {folder} holds the states of the iterators of {len(positions)} processes, and there are "
            f"{len(peers.processes)} now: resume with as many, or with data in arrays."
        )
    return positions[peers.processes.index(jax.process_index())]
