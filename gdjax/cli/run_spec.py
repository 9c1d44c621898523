"""Resolve settings into a run: problem, optimizer, length and targets, with defaults filled in."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from gdjax import names, problems
from gdjax.cli.arguments import MAX_COUNT, parse_mesh, shorten
from gdjax.cli.config import ResolvedSettings, Settings
from gdjax.cli.errors import InputError
from gdjax.cli.metric_target import MetricTarget
from gdjax.cli.user_modules import REFERENCE, search_current_directory
from gdjax.compose.watch import metrics
from gdjax.problems import Problem
from gdjax.value import GradientTransform, ParseError

STEP_METRICS = ("loss", "grad_norm", "learning_rate")
"""Metrics that every step reports."""
HELD_OUT_LOSS = "held_out_loss"
LABELS: Mapping[str, str] = {"problem": "PROBLEM", "optimizer": "--optimizer", "until": "--until"}
"""Labels of settings in errors, for settings from the command line."""
SEE_LIST = "\nFor all names, run: gdjax {}."


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """Specification of a run, with every default filled in."""

    settings: ResolvedSettings
    """Settings that repeat the run."""
    problem: Problem
    tx: GradientTransform
    until: MetricTarget | None
    """Target at which the run stops."""
    target: MetricTarget | None
    """Target that the problem states for its default run."""
    metrics: Mapping[str, Callable[..., jax.Array]]
    """Metrics of the held-out data, with names that differ from `STEP_METRICS`."""

    @classmethod
    def resolve(cls, settings: Settings, labels: Mapping[str, str] = LABELS) -> "RunSpec":
        """Resolve settings. Data are not loaded.

        Args:
          settings: those of the command line and the file.
          labels: the labels of `problem`, `optimizer` and `until` in errors.
        """
        text = settings.get("problem", "digits")
        problem = _parse_problem(text, labels["problem"])
        name = text.strip() if REFERENCE.match(text) else repr(problem)
        if "data" in settings:
            problem = _replace_data(problem, settings["data"])
        if "optimizer" in settings:
            tx = parse_optimizer(settings["optimizer"], labels["optimizer"])
        else:
            tx = parse_optimizer(problem.optimizer, f"the optimizer of {name}")
        until = MetricTarget.parse(settings["until"], labels["until"]) if "until" in settings else None
        target = MetricTarget.parse(problem.target, "the problem's target") if problem.target else None
        measured = dict(problem.metrics)
        if "loss" in measured:  # a step reports the loss of its batch under this name
            measured[HELD_OUT_LOSS] = measured.pop("loss")
            if target and target.metric == "loss":
                target = target._replace(metric=HELD_OUT_LOSS)
        axis, devices = parse_mesh(settings.get("mesh", "data=1"))
        resolved: ResolvedSettings = {
            "problem": name,
            "optimizer": repr(tx),
            "batch_size": settings.get("batch_size", problem.batch_size),
            "seed": settings.get("seed", 0),
            "mesh": f"{axis}={devices}",
        }
        if "epochs" in settings and "steps" in settings:
            raise InputError("--epochs and --steps exclude each other: give one of them.")
        if "epochs" in settings:
            resolved["epochs"] = settings["epochs"]
        elif "steps" in settings:
            resolved["steps"] = settings["steps"]
        elif problem.epochs is not None:
            resolved["epochs"] = problem.epochs
        elif problem.steps is not None:
            resolved["steps"] = problem.steps
        if until:
            resolved["until"] = str(until)
        if "data" in settings:
            resolved["data"] = settings["data"]
        return cls(resolved, problem, tx, until, target, measured)

    @property
    def rows(self) -> int | None:
        """Return the number of rows of training data; `None` without data."""
        leaves = jax.tree.leaves(self.problem.train)
        return len(leaves[0]) if leaves else None

    @property
    def steps(self) -> int:
        """Return the number of steps, unless a target stops the run before."""
        if "steps" in self.settings:
            return self.settings["steps"]
        batch = self.settings["batch_size"]
        per_epoch = 1 if self.rows is None or isinstance(batch, str) else self.rows // batch
        return self.settings.get("epochs", 1) * per_epoch

    def check(self) -> None:
        """Refuse settings that contradict each other or the problem. Loads the data."""
        try:
            rows = self.rows
        except (OSError, ValueError) as error:
            raise InputError(f"{error}".rstrip(".") + "; --data takes a file or a folder of text.") from error
        if self.steps > MAX_COUNT:
            epochs = self.settings.get("epochs", 1)
            raise InputError(
                f"--epochs must be at most {MAX_COUNT // (self.steps // epochs):,}, because the step count is an "
                f"int32, got {epochs:,}."
            )
        self._check_batches(rows)
        self._check_optimizer()

    def _check_batches(self, rows: int | None) -> None:
        """Refuse a batch size or a mesh that does not suit the data."""
        batch, who = self.settings["batch_size"], self.problem.factory.__name__
        _, devices = parse_mesh(self.settings["mesh"])
        if rows is None:
            if batch != "full" or devices > 1:
                flag = "--batch-size" if batch != "full" else "--mesh"
                raise InputError(f"{flag} is for problems with data, and {who} has none: leave it out.")
            return
        size = rows if isinstance(batch, str) else batch
        if size > rows:
            raise InputError(
                f"--batch-size must be at most {rows:,}, the rows of {who}, got {size:,}; --batch-size full is all."
            )
        if size % devices:
            raise InputError(
                f"--batch-size must be a multiple of the devices of --mesh, so that each has as many rows, got "
                f"{size:,} and {devices}: give --batch-size {max(size // devices, 1) * devices}."
            )

    def _check_optimizer(self) -> None:
        """Refuse an optimizer that does not suit the parameters, and targets on unknown metrics."""
        params = jax.eval_shape(self.problem.init, jax.eval_shape(lambda: jax.random.key(0)))
        try:
            state = jax.eval_shape(self.tx.init, params)
        except (TypeError, ValueError) as error:
            who = self.problem.factory.__name__
            raise InputError(f"--optimizer {self.settings['optimizer']} does not suit {who}: {error}") from error
        known = {*STEP_METRICS, *self.metrics, *metrics(state)}
        for target, label in ((self.until, "--until"), (self.target, "the problem's target")):
            if target:
                target.require_known(known, label)


def parse_optimizer(text: str, label: str = "--optimizer") -> GradientTransform:
    """Parse an optimizer.

    Args:
      text: the optimizer as it prints.
      label: the label of the text in errors.
    """
    try:
        tx = names.parse(text)
    except ParseError as error:
        raise InputError(f"{label}: {error}{SEE_LIST.format('optimizers')}") from error
    if not isinstance(tx, GradientTransform):
        raise InputError(f"{label} must be a transform, got {tx}: pass a schedule to one, as in sgd({text}).")
    return tx


def _parse_problem(text: str, label: str) -> Problem:
    """Parse a problem; one in a user's module may lie in the current directory."""
    is_reference = REFERENCE.match(text)
    try:
        with search_current_directory() if is_reference else contextlib.nullcontext():
            return problems.find(text)
    except ParseError as error:
        raise InputError(f"{label}: {error}{'' if is_reference else SEE_LIST.format('problems')}") from error
    except Exception as error:
        if not is_reference:
            raise
        raise InputError(f"{label}: {text}: {type(error).__name__}: {error}; --debug shows the traceback.") from error


def _replace_data(problem: Problem, data: str) -> Problem:
    """Return the problem on other data."""
    if "data" not in problem.arguments:
        takers = [name for name, factory in problems.factories().items() if "data" in factory.signature.parameters]
        raise InputError(f"--data is for {', '.join(takers)}; {problem.factory.__name__} takes none: leave it out.")
    try:
        exists = Path(data).exists()
    except OSError:  # not a valid name of a file
        exists = False
    if not exists:
        raise InputError(f"--data must be a file or a folder, and there is no {shorten(data)}.")
    return problem.factory.make({**problem.arguments, "data": data})
