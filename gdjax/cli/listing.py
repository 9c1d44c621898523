"""Print lists: `gdjax problems`, `gdjax optimizers`, `gdjax describe`."""

import textwrap
from collections.abc import Mapping
from typing import Any

import jax

from gdjax import describing, names
from gdjax import problems as registry
from gdjax.cli.docstrings import format_page, read_page, summary
from gdjax.cli.errors import InputError
from gdjax.cli.run_spec import RunSpec
from gdjax.cli.tables import line_width, print_table
from gdjax.value import Factory, GradientTransform, Schedule
from gdjax.value.printing import nearest

Factories = Mapping[str, Factory[..., Any]]


def problems() -> None:
    """List the problems, with their optimizers, data and targets."""
    rows = []
    for name, factory in registry.factories().items():
        problem = factory()
        leaves = jax.tree.leaves(problem.train)
        size = f"{len(leaves[0]):,} rows" if leaves else "no data"
        rows.append((name, f"{summary(factory)}\n{problem.optimizer}", size, problem.target or ""))
    print_table(rows, ("problem", "description and optimizer", "data", "target"))
    print("Each takes arguments: gdjax train 'quadratic(condition=1e4)'.")


def optimizers(name: str | None) -> None:
    """List the optimizers, or print the documentation of one."""
    factories = names.factories()
    if name is None:
        _list_optimizers(factories)
    elif name in factories:
        print(format_page(read_page(name, factories[name]), line_width()))
    else:
        raise InputError(f"unknown name {name!r}{nearest(name, factories)}; gdjax optimizers lists all.")


def describe(expression: str, problem: str) -> None:
    """Print what an optimizer does to each parameter of a problem."""
    labels = {"problem": "--problem", "optimizer": "EXPR"}
    spec = RunSpec.resolve({"problem": problem, "optimizer": expression}, labels)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        description = describing.describe(spec.tx, jax.eval_shape(spec.problem.init, key))
    except (TypeError, ValueError) as error:
        raise InputError(f"{spec.tx} does not suit {spec.problem}: {error}") from error
    header, *rows = description.table
    print_table(rows, header)
    print(description.totals)


def _list_optimizers(factories: Factories) -> None:
    """Print a table of the optimizers, and the names of all other factories by group."""
    groups = {name: _group(name, factory) for name, factory in sorted(factories.items())}
    rows = [(name, summary(factories[name])) for name, group in groups.items() if group == "optimizers"]
    print_table(rows, ("optimizer", "description"))
    for title in ("transforms", "wrappers", "schedules", "functions of matrices"):
        print(f"\n{title.capitalize()}:")
        names = ", ".join(name for name, group in groups.items() if group == title)
        print(textwrap.fill(names, line_width(), initial_indent="  ", subsequent_indent="  "))
    print("\nFor the documentation of one: gdjax optimizers NAME")


def _group(name: str, factory: Factory[..., Any]) -> str:
    """Return the group of a factory. A wrapper is a factory that needs another transform."""
    if factory.kind is not GradientTransform:
        return "schedules" if factory.kind is Schedule else "functions of matrices"
    parameters = factory.signature.parameters.values()
    if any(p.default is p.empty and "transform" in factory.slots[p.name].takes for p in parameters):
        return "wrappers"
    has_rate = any("learning_rate" in parameter for parameter in factory.slots)
    return "optimizers" if has_rate and not name.startswith("scale_by_") else "transforms"
