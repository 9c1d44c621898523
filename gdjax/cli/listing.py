"""Lists: `gdjax problems`, `gdjax optimizers`, `gdjax describe`."""

import textwrap
from collections.abc import Mapping
from typing import Any

import jax

from gdjax import describing, names
from gdjax import problems as package
from gdjax.cli.docstrings import page, summary, told
from gdjax.cli.errors import InputError
from gdjax.cli.run_spec import Task
from gdjax.cli.tables import show, width
from gdjax.value import Factory, GradientTransform, Schedule
from gdjax.value.printing import nearest

Factories = Mapping[str, Factory[..., Any]]


def problems() -> None:
    """List the problems, with their optimizers, data and targets."""
    rows = []
    for name, factory in package.factories().items():
        problem = factory()
        leaves = jax.tree.leaves(problem.train)
        size = f"{len(leaves[0]):,} rows" if leaves else "no data"
        rows.append((name, f"{summary(factory)}\n{problem.optimizer}", size, problem.target or ""))
    show(rows, ("problem", "what it is, and its optimizer", "data", "target"))
    print("Each takes arguments: gdjax train 'quadratic(condition=1e4)'.")


def optimizers(name: str | None) -> None:
    """List the optimizers, or print the page of one."""
    found = names.factories()
    if name is None:
        _list(found)
    elif name in found:
        print(told(page(name, found[name]), width()))
    else:
        raise InputError(f"unknown name {name!r}{nearest(name, found)}; gdjax optimizers lists all.")


def describe(expression: str, problem: str) -> None:
    """Print what an optimizer does to each parameter of a problem."""
    task = Task.of({"problem": problem, "optimizer": expression}, {"problem": "--problem", "optimizer": "EXPR"})
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        found = describing.describe(task.tx, jax.eval_shape(task.problem.init, key))
    except (TypeError, ValueError) as error:
        raise InputError(f"{task.tx} does not suit {task.problem}: {error}") from error
    header, *rows = found.table
    show(rows, header)
    print(found.totals)


def _list(found: Factories) -> None:
    """The optimizers with what they do; of the others the names."""
    groups = {name: _group(name, factory) for name, factory in sorted(found.items())}
    show([(name, summary(found[name])) for name in groups if groups[name] == "optimizers"], ("optimizer", "what it is"))
    for group in ("transforms", "wrappers", "schedules", "scales of matrices"):
        print(f"\n{group.capitalize()}:")
        names = ", ".join(name for name in groups if groups[name] == group)
        print(textwrap.fill(names, width(), initial_indent="  ", subsequent_indent="  "))
    print("\ngdjax optimizers NAME tells all about one.")


def _group(name: str, factory: Factory[..., Any]) -> str:
    """Return the group of a factory: a wrapper is one that cannot be called without another transform."""
    if factory.kind is not GradientTransform:
        return "schedules" if factory.kind is Schedule else "scales of matrices"
    parameters = factory.signature.parameters.values()
    if any(p.default is p.empty and "transform" in factory.slots[p.name].takes for p in parameters):
        return "wrappers"
    named = not name.startswith("scale_by_") and any("learning_rate" in parameter for parameter in factory.slots)
    return "optimizers" if named else "transforms"
