"""Run `fit` on a run's specification, with its files."""

import signal
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from gdjax.cli.errors import InputError
from gdjax.cli.run_folder import RunFolder
from gdjax.cli.run_spec import RunSpec
from gdjax.cli.signals import SignalHandler
from gdjax.descent import (
    CaughtSignal,
    Checkpoints,
    Evaluate,
    Fit,
    JsonLines,
    PeerFailedError,
    Peers,
    Placement,
    Progress,
    fit,
)


def fit_run(
    spec: RunSpec, folder: RunFolder, mesh: Mesh | None, peers: Peers, early_signal: CaughtSignal,
    signal_handler: SignalHandler, *, resume: bool, save_every: int | None,
) -> Fit:  # fmt: skip
    """Descend, and write metrics and checkpoints to the folder of the run.

    Args:
      spec: the specification of the run.
      folder: its folder.
      mesh: its devices; `None` for one.
      peers: its processes.
      early_signal: a signal that came before the first step, if one did; it takes effect at the first step.
      signal_handler: lets the descent save from the first step on.
      resume: continue from the newest checkpoint.
      save_every: steps between checkpoints; by default the time decides.
    """
    settings, problem = spec.settings, spec.problem
    params_key, fit_key = jax.random.split(jax.random.key(settings["seed"]))
    has_started = False

    def at_first_step(_: Progress) -> None:
        nonlocal has_started
        if has_started:
            return
        if early_signal.number is not None:
            signal.raise_signal(early_signal.number)
        signal_handler.descent_saves = True  # before the first step there is nothing to save
        signal_handler.outcome = f"steps since the last checkpoint are lost. To resume: {folder.resume_command}"
        has_started = True

    try:
        return fit(
            problem.loss,
            problem.init(params_key),
            spec.tx,
            problem.train,
            batch_size=settings["batch_size"],
            epochs=settings.get("epochs"),
            steps=settings.get("steps"),
            stop=spec.until and spec.until.criterion(),
            evaluate=_evaluate(spec, mesh),
            checkpoint=_checkpoints(spec, folder, save_every),
            resume=resume,
            key=fit_key,
            mesh=mesh,
            callbacks=[at_first_step, *([JsonLines(folder.metrics)] if peers.is_first else [])],
        )
    except (TypeError, ValueError) as error:
        if has_started:
            raise
        is_from_fit = str(error).startswith("fit: ")
        hint = "" if is_from_fit else f" ({type(error).__name__} in the loss; --debug shows the traceback)"
        raise InputError(f"{error}{hint}") from error
    except PeerFailedError as error:
        if not has_started and error.kind in (TypeError.__name__, ValueError.__name__):
            error.kind = InputError.__name__
        raise


def _evaluate(spec: RunSpec, mesh: Mesh | None) -> Evaluate | None:
    """Return the evaluation of all metrics in one compiled program; `None` without metrics."""
    if not spec.metrics:
        return None
    held_out = Placement.of(mesh).place(spec.problem.held_out)
    compiled: Callable[..., dict[str, jax.Array]] = jax.jit(
        lambda params, batch: {name: metric(params, batch) for name, metric in spec.metrics.items()}
    )
    return Evaluate(lambda params: compiled(params, held_out))


def _checkpoints(spec: RunSpec, folder: RunFolder, save_every: int | None) -> Checkpoints:
    target = spec.until or spec.target
    best = (target.metric, target.mode) if target else "loss"
    return Checkpoints(folder.checkpoints, every=save_every, best=best)
