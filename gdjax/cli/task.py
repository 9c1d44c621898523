"""What a run does: a problem, an optimizer, and how long."""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from gdjax import names, problems
from gdjax.cli.backend import axis
from gdjax.cli.goal import Goal
from gdjax.cli.status import InputError
from gdjax.compose import metrics
from gdjax.problems import Problem
from gdjax.value import GradientTransform, ParseError

REPORTED = ("loss", "grad_norm", "learning_rate")
"""What every step reports, under these names."""
HELD_OUT_LOSS = "held_out_loss"
REFERENCE = re.compile(r"\s*[\w.]+:")
"""How a problem of the user's own begins: the module, and a colon."""
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
    def of(cls, asked: Mapping[str, Any]) -> "Task":
        """Read what was asked for; data are not loaded."""
        text = asked.get("problem", "digits")
        problem = _problem(text)
        written = text.strip() if REFERENCE.match(text) else repr(problem)
        if "data" in asked:
            problem = _on(problem, asked["data"])
        tx = optimizer(asked.get("optimizer", problem.optimizer))
        lengths = {name: asked[name] for name in ("epochs", "steps") if name in asked}
        if len(lengths) == 2:
            raise InputError("--epochs and --steps exclude each other: give one of them.")
        if not lengths:
            lengths = {"steps": problem.steps} if problem.epochs is None else {"epochs": problem.epochs}
        until = Goal.of(asked["until"]) if "until" in asked else None
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


def batch_size(text: str) -> int | str:
    """Read a number of rows, or `full`."""
    if text == "full":
        return text
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"--batch-size must be 'full' or a whole number of 1 at least, got {text!r}.")
    return number


def optimizer(text: str) -> GradientTransform:
    """Read an optimizer."""
    try:
        tx = names.parse(text)
    except ParseError as error:
        raise InputError(f"--optimizer: {error}{NAMES.format('optimizers')}") from error
    if not isinstance(tx, GradientTransform):
        raise InputError(f"--optimizer: a transform is needed, got {tx}: a schedule goes into one, as in sgd({text}).")
    return tx


def _problem(text: str) -> Problem:
    """Read a problem; one of the user's own may lie in the present folder."""
    own = REFERENCE.match(text)
    if own and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return problems.find(text)
    except ParseError as error:
        raise InputError(f"PROBLEM: {error}{'' if own else NAMES.format('problems')}") from error
    except Exception as error:
        if not own:
            raise
        raise InputError(f"PROBLEM: {text}: {type(error).__name__}: {error}; --debug shows where.") from error


def _on(problem: Problem, data: str) -> Problem:
    """The problem on other data."""
    if "data" not in problem.arguments:
        having = [name for name, factory in problems.factories().items() if "data" in factory.signature.parameters]
        raise InputError(f"--data is for {', '.join(having)}; {problem.factory.__name__} takes none: leave it out.")
    if not Path(data).exists():
        raise InputError(f"--data must be a file or a folder, and there is no {data!r}.")
    return problem.factory.make({**problem.arguments, "data": data})
