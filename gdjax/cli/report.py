"""What a run came to: files, a table, a status."""

import io
import logging
from typing import Any

import jax
import numpy as np

from gdjax.cli.errors import Status, say
from gdjax.cli.metric_target import Goal
from gdjax.cli.run_folder import Run
from gdjax.cli.run_spec import Task
from gdjax.cli.tables import show
from gdjax.descent import Fit, Stopped
from gdjax.descent.checkpoints import disk as files
from gdjax.descent.checkpoints.disk import cause


def report(task: Task, run: Run, fit: Fit) -> None:
    """Draw the curves, print the table, and tell how it ended."""
    _draw(run, fit)
    show(_rows(task, run, fit, _last(fit)))
    go_on = f"gdjax train --resume --out {run.folder}"
    match status(task, fit):
        case Status.INTERRUPTED:
            say(f"interrupted after step {int(fit.state.count):,}; saved: {go_on} goes on.")
        case Status.FAILED:
            way = ": a smaller learning rate, or clip_by_global_norm before it, may help"
            say(f"{fit.because}{way if fit.history.rows > 1 else ''}.")
        case Status.MISSED:
            length = "epochs" if "epochs" in task.asked else "steps"
            say(f"{task.until} was not reached: {go_on} --{length} {2 * task.asked[length]} goes on.")


def status(task: Task, fit: Fit) -> Status:
    """How it ended."""
    if fit.stopped is Stopped.INTERRUPTED:
        return Status.INTERRUPTED
    if fit.stopped is Stopped.NONFINITE:
        return Status.FAILED
    missed = task.until is not None and not _reached(task.until, fit, _last(fit))
    return Status.MISSED if missed else Status.DONE


def _rows(task: Task, run: Run, fit: Fit, last: dict[str, float]) -> list[tuple[str, str]]:
    step = int(fit.state.count)
    rows = [("problem", _problem(task)), *([("data", task.asked["data"])] if "data" in task.asked else [])]
    rows += [("optimizer", task.asked["optimizer"]), ("steps", f"{step:,}")]
    rows += [("time", f"{fit.seconds:.1f} s, {fit.compiling:.1f} s of it until programs were compiled")]
    rows += _speed(task, fit)
    rows += [(name.replace("_", " "), f"{value:.6g}") for name, value in last.items()]
    rows.append(("stopped", fit.because))
    for name, goal in (("until", task.until), ("target", task.target)):
        if goal:
            rows.append((name, f"{goal}: {'reached' if _reached(goal, fit, last) else 'not reached'}"))
    files = [f"{path.name}/" if path.is_dir() else path.name for path in run.made]
    return [*rows, ("files", f"{run.folder}: {', '.join(files)}")]


def _problem(task: Task) -> str:
    if task.rows is None:
        return task.asked["problem"]
    held_out = jax.tree.leaves(task.problem.held_out)
    beside = f" and {len(held_out[0]):,} held out" if held_out else ""
    return f"{task.asked['problem']}, {task.rows:,} rows{beside}"


def _speed(task: Task, fit: Fit) -> list[tuple[str, str]]:
    """Return the mean speed, over all time but compilation, and that of the last dispatch alone."""
    timed = np.isfinite(found := fit.history.get("throughput", np.zeros(0)))
    seconds = fit.seconds - fit.compiling
    if not timed.any() or seconds <= 0:
        return []
    batch = task.asked["batch_size"]
    each = 1 if task.rows is None else task.rows if batch == "full" else batch
    what = "steps/s" if task.rows is None else "examples/s"
    return [(what, f"{_rate(each * timed.sum() / seconds)} mean, {_rate(found[timed][-1])} last")]


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.3g}"


def _last(fit: Fit) -> dict[str, float]:
    """The loss of the last step, and what was evaluated last."""
    history, evaluations = fit.history, fit.history.evaluations
    steps = {name: float(history[name][-1]) for name in ("loss", "grad_norm") if history.rows}
    return steps | {name: float(x[-1]) for name, x in evaluations.items() if name != "step" and len(x)}


def _reached(goal: Goal, fit: Fit, last: dict[str, Any]) -> bool:
    value = last.get(goal.metric)
    if value is None and goal.metric in fit.history:
        value = float(fit.history[goal.metric][-1])
    return value is not None and goal.holds(value)


def _draw(run: Run, fit: Fit) -> None:
    """Draw the curves with matplotlib's own defaults: a `matplotlibrc` in the current directory may be untrusted."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells that it looks for fonts
    try:
        import matplotlib

        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            picture = io.BytesIO()
            fit.plot().savefig(picture, format="png")
        files.replace(run.curves, picture.getvalue())
    except ModuleNotFoundError:
        say("no curves.png: plot needs matplotlib: pip install 'gdjax[lab]'")
    except OSError as error:
        say(f"no curves.png: {cause(error)}.")
