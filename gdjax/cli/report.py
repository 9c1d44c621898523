"""Report a finished run: curves, a table, and a message if it did not end well."""

import io
import logging

import jax
import numpy as np

from gdjax.cli.errors import ExitStatus, print_message
from gdjax.cli.metric_target import MetricTarget
from gdjax.cli.run_folder import RunFolder
from gdjax.cli.run_spec import RunSpec
from gdjax.cli.tables import print_table
from gdjax.descent import Fit, Stopped, short_cause, write_atomically


def report(spec: RunSpec, folder: RunFolder, fit: Fit) -> None:
    """Draw the curves, print the table, and print a message if the run did not end well."""
    _draw_curves(folder, fit)
    print_table(_rows(spec, folder, fit))
    match exit_status(spec, fit):
        case ExitStatus.INTERRUPTED:
            step = int(fit.state.count)
            print_message(f"interrupted after step {step:,}; checkpoint saved. To resume: {folder.resume_command}")
        case ExitStatus.FAILED:
            hint = ": a smaller learning rate, or clip_by_global_norm before it, may help"
            print_message(f"{fit.because}{hint if fit.history.rows > 1 else ''}.")
        case ExitStatus.TARGET_MISSED:
            settings = spec.settings
            length = f"--epochs {2 * settings['epochs']}" if "epochs" in settings else f"--steps {2 * spec.steps}"
            print_message(f"{spec.until} was not reached. To continue: {folder.resume_command} {length}")


def exit_status(spec: RunSpec, fit: Fit) -> ExitStatus:
    """Return the exit status of a finished run."""
    if fit.stopped is Stopped.INTERRUPTED:
        return ExitStatus.INTERRUPTED
    if fit.stopped is Stopped.NONFINITE:
        return ExitStatus.FAILED
    is_missed = spec.until is not None and not _is_reached(spec.until, fit)
    return ExitStatus.TARGET_MISSED if is_missed else ExitStatus.DONE


def _rows(spec: RunSpec, folder: RunFolder, fit: Fit) -> list[tuple[str, str]]:
    """Return the rows of the table: a label and a text each."""
    settings = spec.settings
    rows = [("problem", _problem(spec))]
    if "data" in settings:
        rows.append(("data", settings["data"]))
    rows += [
        ("optimizer", settings["optimizer"]),
        ("steps", f"{int(fit.state.count):,}"),
        ("time", f"{fit.seconds:.1f} s, of which {fit.compiling:.1f} s for compilation"),
    ]
    rows += _throughput(spec, fit)
    rows += [(name.replace("_", " "), f"{value:.6g}") for name, value in _final_metrics(fit).items()]
    rows.append(("stopped", fit.because))
    for name, target in (("until", spec.until), ("target", spec.target)):
        if target:
            rows.append((name, f"{target}: {'reached' if _is_reached(target, fit) else 'not reached'}"))
    names = [f"{path.name}/" if path.is_dir() else path.name for path in folder.existing]
    return [*rows, ("files", f"{folder.path}: {', '.join(names)}")]


def _problem(spec: RunSpec) -> str:
    """Return the problem with its number of rows."""
    problem = spec.settings["problem"]
    if spec.rows is None:
        return problem
    held_out = jax.tree.leaves(spec.problem.held_out)
    held_out_rows = f" and {len(held_out[0]):,} held out" if held_out else ""
    return f"{problem}, {spec.rows:,} rows{held_out_rows}"


def _throughput(spec: RunSpec, fit: Fit) -> list[tuple[str, str]]:
    """Return a row with the mean throughput without compilation, and that of the last dispatch."""
    recorded = fit.history.get("throughput", np.zeros(0))
    is_timed = np.isfinite(recorded)
    seconds = fit.seconds - fit.compiling
    if not is_timed.any() or seconds <= 0:
        return []
    batch = spec.settings["batch_size"]
    if spec.rows is None:
        unit, per_step = "steps/s", 1
    else:
        unit, per_step = "examples/s", spec.rows if isinstance(batch, str) else batch
    mean, last = per_step * is_timed.sum() / seconds, recorded[is_timed][-1]
    return [(unit, f"{_format_rate(mean)} mean, {_format_rate(last)} last")]


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.3g}"


def _final_metrics(fit: Fit) -> dict[str, float]:
    """Return the loss and gradient norm of the last step, and the last evaluation."""
    history, evaluations = fit.history, fit.history.evaluations
    of_step = {name: float(history[name][-1]) for name in ("loss", "grad_norm") if history.rows}
    return of_step | {name: float(x[-1]) for name, x in evaluations.items() if name != "step" and len(x)}


def _is_reached(target: MetricTarget, fit: Fit) -> bool:
    value = _final_metrics(fit).get(target.metric)
    if value is None and target.metric in fit.history:
        value = float(fit.history[target.metric][-1])
    return value is not None and target.is_met_by(value)


def _draw_curves(folder: RunFolder, fit: Fit) -> None:
    """Draw the curves with the defaults of matplotlib: a `matplotlibrc` in the current directory may be untrusted."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs its search for fonts
    try:
        import matplotlib

        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            image = io.BytesIO()
            fit.plot().savefig(image, format="png")
        write_atomically(folder.curves, image.getvalue())
    except ModuleNotFoundError:
        print_message("no curves.png: plot needs matplotlib: pip install 'gdjax[lab]'")
    except OSError as error:
        print_message(f"no curves.png: {short_cause(error)}.")
