"""The run itself: `fit`, on what the command line asked for."""

import signal
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from gdjax.cli.errors import InputError
from gdjax.cli.run_folder import Run
from gdjax.cli.run_spec import Task
from gdjax.cli.signals import Watch
from gdjax.descent import Checkpoints, Evaluate, Fit, JsonLines, fit
from gdjax.descent.data.placement import Placement
from gdjax.descent.loop.signals import Heard
from gdjax.descent.peers import PeerFailedError, Peers


def descend(
    task: Task, run: Run, mesh: Mesh | None, peers: Peers, early: Heard, watch: Watch, *, resume: bool,
    save_every: int | None,
) -> Fit:  # fmt: skip
    """Descend, and record the run in its folder; a signal that came early takes effect when the descent begins."""
    go_on = f"gdjax train --resume --out {run.folder} goes on"
    asked, problem = task.asked, task.problem
    of_params, of_rest = jax.random.split(jax.random.key(asked["seed"]))
    begun = False

    def note(_: Any) -> None:
        nonlocal begun
        if not begun and early.number is not None:
            signal.raise_signal(early.number)
        if not begun:  # from now on a signal saves first; before the first step there is nothing to save
            watch.saves, watch.outcome = True, f"unsaved since the last checkpoint: {go_on}"
        begun = True

    try:
        return fit(
            problem.loss,
            problem.init(of_params),
            task.tx,
            problem.train,
            batch_size=asked["batch_size"],
            epochs=asked.get("epochs"),
            steps=asked.get("steps"),
            stop=task.until and task.until.criterion(),
            evaluate=_evaluate(task, mesh),
            checkpoint=_checkpoints(task, run, save_every),
            resume=resume,
            key=of_rest,
            mesh=mesh,
            callbacks=[note, *([JsonLines(run.metrics)] if peers.first else [])],
        )
    except (TypeError, ValueError) as error:
        if begun:
            raise
        hint = "" if str(error).startswith("fit: ") else f" ({type(error).__name__} in the loss; --debug shows where)"
        raise InputError(f"{error}{hint}") from error
    except PeerFailedError as error:
        if not begun and error.kind in (TypeError.__name__, ValueError.__name__):
            error.kind = InputError.__name__
        raise


def _evaluate(task: Task, mesh: Mesh | None) -> Evaluate | None:
    """All metrics in one compiled program."""
    if not task.metrics:
        return None
    held_out = Placement.of(mesh).placed(task.problem.held_out)
    measured: Callable[..., dict[str, jax.Array]] = jax.jit(
        lambda params, batch: {name: metric(params, batch) for name, metric in task.metrics.items()}
    )
    return Evaluate(lambda params: measured(params, held_out))


def _checkpoints(task: Task, run: Run, save_every: int | None) -> Checkpoints:
    goal = task.until or task.target
    best: Any = (goal.metric, goal.mode) if goal else "loss"
    return Checkpoints(run.checkpoints, every=save_every, best=best)
