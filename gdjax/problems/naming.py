"""Problems by their text: those of the package by name, those of users by module and name."""

import importlib
import inspect
import re
from collections.abc import Mapping
from types import ModuleType

from gdjax import value
from gdjax.hints import nearest
from gdjax.problems.base import Problem
from gdjax.problems.chains import exploding, vanishing
from gdjax.problems.digits import digits, digits_conv
from gdjax.problems.flat import plateau, saddle
from gdjax.problems.functions import beale, parabola, quadratic, rastrigin, rosenbrock
from gdjax.problems.recommendation import recommendation
from gdjax.problems.tables import classification, regression
from gdjax.problems.text import text
from gdjax.value import Factory, ParseError

Factories = Mapping[str, Factory[..., Problem]]


def factories() -> dict[str, Factory[..., Problem]]:
    """The factories of problems by name.

    >>> list(factories())[:3]
    ['parabola', 'quadratic', 'rosenbrock']
    """
    functions = (parabola, quadratic, rosenbrock, beale, rastrigin, saddle, plateau, exploding, vanishing)
    on_data = (digits, digits_conv, regression, classification, text, recommendation)
    return {factory.__name__: factory for factory in (*functions, *on_data)}


def parse(text: str, *own: Factory[..., Problem]) -> Problem:
    """Read a problem from the text that it prints; a name alone is the problem with its defaults.

    Nothing is ever executed or imported.

    Args:
      text: an expression, as `gdjax.parse` takes it.
      *own: factories of your own that the text names.

    Raises:
      ParseError: with the reason, the column and the text.

    >>> parse("quadratic(1e4)").condition
    10000.0
    >>> parse("digits")
    digits(hidden=64)
    """
    return _parsed(text, value.named("problems.parse", own))


def find(text: str) -> Problem:
    """Find the problem that the text means on a command line: as `parse` reads it, or `module:problem`.

    The module is imported, and so run. After the colon stands the name of a problem in it, or what `parse` reads, the
    factories of the module among its names.

    Raises:
      ParseError: if the text is none, there is no such module, or none such in it.

    >>> find("gdjax.problems.functions:rosenbrock(3)")
    rosenbrock(size=3)
    """
    reference = re.fullmatch(r"\s*([\w.]+):(.+)", text) if isinstance(text, str) else None
    if reference is None:
        return parse(text)
    name, inside = reference.groups()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ParseError(
            f"{reference[0][:80]}: {str(error)[:80]}; is its folder where Python looks (PYTHONPATH)?"
        ) from error
    if isinstance(made := vars(module).get(inside.strip()), Problem):
        return made
    _require_problem(module, inside)
    return _parsed(inside, {name: x for name, x in vars(module).items() if _makes_problems(x)})


def _require_problem(module: ModuleType, inside: str) -> None:
    """Refuse a text whose first name is something else in a module, or nothing there nor here."""
    found = re.match(r"\s*([^\W\d]\w*)\s*(?:\(|$)", inside)
    if found is None or found[1] in factories() or _makes_problems(own := vars(module).get(found[1])):
        return
    must = (
        "a function decorated with @gd.problem that returns gd.problems.Parts(init=..., loss=...), or what it returned"
    )
    there = [name for name, x in vars(module).items() if isinstance(x, Problem) or _makes_problems(x)]
    if own is None and nearest(found[1], there):
        return  # a slip, which the reader of the text tells
    without = "the function itself, without @gd.problem" if inspect.isfunction(own) else f"a {type(own).__name__}"
    got = "nothing of that name in it" if own is None else without
    raise ParseError(f"{module.__name__}:{found[1]} must be a problem: {must}; got {got}")


def _parsed(text: str, own: Factories) -> Problem:
    if isinstance(text, str) and text.strip().isidentifier():
        text = f"{text.strip()}()"
    found = value.parse(text, {**factories(), **own}, wanted="a problem")
    if not isinstance(found, Problem):
        raise ParseError(f"a problem is needed, got {repr(found)[:200]}")
    return found


def _makes_problems(x: object) -> bool:
    return isinstance(x, Factory) and x.kind is Problem
