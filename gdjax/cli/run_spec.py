"""What a run does: a problem, an optimizer, and how long."""

import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from gdjax import names, problems
from gdjax.cli.arguments import MAX_COUNT, axis, brief
from gdjax.cli.errors import InputError
from gdjax.cli.metric_target import Goal
from gdjax.cli.user_modules import REFERENCE
from gdjax.compose.watching import metrics
from gdjax.problems import Problem
from gdjax.value import GradientTransform, ParseError

REPORTED = ("loss", "grad_norm", "learning_rate")
"""What every step reports, under these names."""
HELD_OUT_LOSS = "held_out_loss"
FLAGS: Mapping[str, str] = {"problem": "PROBLEM", "optimizer": "--optimizer", "until": "--until"}
"""Names of the requested texts in errors, unless they come from elsewhere."""
NAMES = "\nThe names there are: gdjax {}."


@dataclasses.dataclass(frozen=True)
class Task:
    """A run as it was asked for, every default filled in."""

    asked: dict[str, Any]
    """By the names of `config.toml`, such that it repeats the run."""
    problem: Problem
    tx: GradientTransform
    until: Goal | None
    target: Goal | None
    """What the problem says that its default run reaches."""
    metrics: Mapping[str, Callable[..., jax.Array]]
    """What is measured of `problem.held_out`, none of them named as what a step reports."""

    @classmethod
    def of(cls, asked: Mapping[str, Any], called: Mapping[str, str] = FLAGS) -> "Task":
        """Read a request; data are not loaded.

        Args:
          asked: the request, by the names of `config.toml`.
          called: the names of `problem`, `optimizer` and `until` in errors.
        """
        text = asked.get("problem", "digits")
        problem = _problem(text, called["problem"])
        written = text.strip() if REFERENCE.match(text) else repr(problem)
        if "data" in asked:
            problem = _on(problem, asked["data"])
        own = f"the optimizer of {written}"
        tx = optimizer(asked.get("optimizer", problem.optimizer), called["optimizer"] if "optimizer" in asked else own)
        lengths = {name: asked[name] for name in ("epochs", "steps") if name in asked}
        if len(lengths) == 2:
            raise InputError("--epochs and --steps exclude each other: give one of them.")
        if not lengths:
            lengths = {"steps": problem.steps} if problem.epochs is None else {"epochs": problem.epochs}
        until = Goal.of(asked["until"], called["until"]) if "until" in asked else None
        target = Goal.of(problem.target, "the problem's target") if problem.target else None
        measured = dict(problem.metrics)
        if "loss" in measured:  # a step has one of its own, of its batch
            measured[HELD_OUT_LOSS] = measured.pop("loss")
            if target and target.metric == "loss":
                target = target._replace(metric=HELD_OUT_LOSS)
        whole = {
            "problem": written,
            "optimizer": repr(tx),
            "batch_size": asked.get("batch_size", problem.batch_size),
            **lengths,
            **({"until": str(until)} if until else {}),
            "seed": asked.get("seed", 0),
            "mesh": "{}={}".format(*axis(asked.get("mesh", "data=1"))),
            **({"data": asked["data"]} if "data" in asked else {}),
        }
        return cls(whole, problem, tx, until, target, measured)

    @property
    def rows(self) -> int | None:
        """Rows of data to descend on; `None` where there are none."""
        leaves = jax.tree.leaves(self.problem.train)
        return len(leaves[0]) if leaves else None

    @property
    def steps(self) -> int:
        """How many it takes, unless something ends it."""
        if "steps" in self.asked:
            return self.asked["steps"]
        batch = self.asked["batch_size"]
        per_epoch = 1 if self.rows is None or batch == "full" else self.rows // batch
        return self.asked["epochs"] * per_epoch

    def check(self) -> None:
        """Refuse what does not fit together; loads the data."""
        try:
            rows = self.rows
        except (OSError, ValueError) as error:
            raise InputError(f"{error}".rstrip(".") + "; --data takes a file or a folder of text.") from error
        if self.steps > MAX_COUNT:
            epochs = self.asked.get("epochs", 0)
            raise InputError(
                f"--epochs must be at most {MAX_COUNT // (self.steps // epochs):,}, for steps are counted in int32, "
                f"got {epochs:,}."
            )
        batch, who = self.asked["batch_size"], self.problem.factory.__name__
        _, devices = axis(self.asked["mesh"])
        if rows is None and (batch != "full" or devices > 1):
            option = "--batch-size is" if batch != "full" else "--mesh is"
            raise InputError(f"{option} for problems with data, and {who} has none: leave it out.")
        if rows is not None:
            size = rows if batch == "full" else batch
            if size > rows:
                raise InputError(
                    f"--batch-size must be at most {rows:,}, the rows of {who}, got {size:,}; --batch-size full is all."
                )
            if size % devices:
                raise InputError(
                    f"--batch-size must be a multiple of the devices of --mesh, so that each has as many rows, got "
                    f"{size:,} and {devices}: give --batch-size {max(size // devices, 1) * devices}."
                )
        key = jax.eval_shape(lambda: jax.random.key(0))
        params = jax.eval_shape(self.problem.init, key)
        try:
            state = jax.eval_shape(self.tx.init, params)
        except (TypeError, ValueError) as error:
            raise InputError(f"--optimizer {self.asked['optimizer']} does not suit {who}: {error}") from error
        known = {*REPORTED, *self.metrics, *metrics(state)}
        for goal, who in ((self.until, "--until"), (self.target, "the problem's target")):
            if goal:
                goal.require_known(known, who)


def optimizer(text: str, who: str = "--optimizer") -> GradientTransform:
    """Read an optimizer."""
    try:
        tx = names.parse(text)
    except ParseError as error:
        raise InputError(f"{who}: {error}{NAMES.format('optimizers')}") from error
    if not isinstance(tx, GradientTransform):
        raise InputError(f"{who}: a transform is needed, got {tx}: a schedule goes into one, as in sgd({text}).")
    return tx


def _problem(text: str, who: str) -> Problem:
    """Read a problem; one of the user's own may lie in the current directory."""
    own = REFERENCE.match(text)
    try:
        with _present_folder() if own else contextlib.nullcontext():
            return problems.find(text)
    except ParseError as error:
        raise InputError(f"{who}: {error}{'' if own else NAMES.format('problems')}") from error
    except Exception as error:
        if not own:
            raise
        raise InputError(f"{who}: {text}: {type(error).__name__}: {error}; --debug shows where.") from error


@contextlib.contextmanager
def _present_folder() -> Iterator[None]:
    """Look for modules in the current directory first; afterwards only for modules that are found nowhere else.

    A file there must not shadow a library that gdjax or JAX has yet to load. At the end of `sys.path` it could: a
    module anywhere on it comes before a namespace package, and JAX runs whatever lies in a folder `jax_plugins`.
    """
    here = str(Path.cwd())
    before = [path for path in sys.path if path != here]
    sys.path[:] = [here, *before]
    try:
        yield
    finally:
        sys.path[:] = before
        if _Here(here) not in sys.meta_path:
            sys.meta_path.append(_Here(here))


@dataclasses.dataclass(frozen=True)
class _Here(importlib.abc.MetaPathFinder):
    """Find modules in one folder, for imports that the user's modules make later."""

    folder: str

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.PathFinder.find_spec(fullname, [self.folder]) if path is None else None


def _on(problem: Problem, data: str) -> Problem:
    """The problem on other data."""
    if "data" not in problem.arguments:
        having = [name for name, factory in problems.factories().items() if "data" in factory.signature.parameters]
        raise InputError(f"--data is for {', '.join(having)}; {problem.factory.__name__} takes none: leave it out.")
    try:
        there = Path(data).exists()
    except OSError:  # not a valid name of a file
        there = False
    if not there:
        raise InputError(f"--data must be a file or a folder, and there is no {brief(data)}.")
    return problem.factory.make({**problem.arguments, "data": data})
