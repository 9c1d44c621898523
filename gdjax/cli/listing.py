"""What there is: `gdjax problems`, `gdjax optimizers`, `gdjax describe`."""

import textwrap
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import typer

from gdjax import describing, names
from gdjax import problems as package
from gdjax.cli.pages import page, summary, told
from gdjax.cli.status import InputError, in_a_sentence
from gdjax.cli.tables import show, width
from gdjax.cli.task import Task
from gdjax.value import Factory, GradientTransform, Schedule
from gdjax.value.printing import nearest

Factories = Mapping[str, Factory[..., Any]]

DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def problems(debug: DEBUG = False) -> None:
    """List what there is to descend on."""
    with in_a_sentence(debug):
        rows = []
        for name, factory in package.factories().items():
            problem = factory()
            leaves = jax.tree.leaves(problem.train)
            size = f"{len(leaves[0]):,} rows" if leaves else "no data"
            rows.append((name, f"{summary(factory)}\n{problem.optimizer}", size, problem.target or ""))
        show(rows, ("problem", "what it is, and its optimizer", "data", "target"))
        print("Each takes arguments: gdjax train 'quadratic(condition=1e4)'.")


def optimizers(
    name: Annotated[str | None, typer.Argument(help="Of an optimizer, transform, wrapper or schedule.")] = None,
    debug: DEBUG = False,
) -> None:
    """List the optimizers, or tell all about one.

    That is its formula, its defaults, the bytes of its state, its source and an example.
    """
    with in_a_sentence(debug):
        found = names.factories()
        if name is None:
            _list(found)
        elif name in found:
            print(told(page(name, found[name]), width()))
        else:
            raise InputError(f"unknown name {name!r}{nearest(name, found)}; gdjax optimizers lists all.")


def describe(
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="An optimizer, as it prints.")],
    problem: Annotated[str, typer.Option(metavar="P", help="The problem whose parameters it gets.")] = "digits",
    debug: DEBUG = False,
) -> None:
    """List what an optimizer does to each parameter.

    Of a problem, that is, and the bytes that it keeps of each.
    """
    with in_a_sentence(debug):
        task = Task.of({"problem": problem, "optimizer": expression})
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
    """The group of a factory: a wrapper is one that cannot be called without another transform."""
    if factory.kind is not GradientTransform:
        return "schedules" if factory.kind is Schedule else "scales of matrices"
    parameters = factory.signature.parameters.values()
    if any(p.default is p.empty and "transform" in factory.slots[p.name].takes for p in parameters):
        return "wrappers"
    named = not name.startswith("scale_by_") and any("learning_rate" in parameter for parameter in factory.slots)
    return "optimizers" if named else "transforms"
