"""Problems from text: built-in problems by name, and yours by module and name."""

import importlib
import inspect
import re
from collections.abc import Mapping
from types import ModuleType

from gdjax import value
from gdjax.hints import nearest
from gdjax.problems.base import Problem
from gdjax.problems.chains import exploding, vanishing
from gdjax.problems.digit_images import digits, digits_conv
from gdjax.problems.flat import plateau, saddle
from gdjax.problems.functions import beale, parabola, quadratic, rastrigin, rosenbrock
from gdjax.problems.language_model import text
from gdjax.problems.matrix_factorization import recommendation
from gdjax.problems.tables import classification, regression
from gdjax.value import Factory, ParseError

Factories = Mapping[str, Factory[..., Problem]]


def factories() -> dict[str, Factory[..., Problem]]:
    """Return the built-in factories of problems, by name.

    >>> list(factories())[:3]
    ['parabola', 'quadratic', 'rosenbrock']
    """
    test_functions = (parabola, quadratic, rosenbrock, beale, rastrigin, saddle, plateau, exploding, vanishing)
    with_data = (digits, digits_conv, regression, classification, text, recommendation)
    return {factory.__name__: factory for factory in (*test_functions, *with_data)}


def parse(text: str, *own: Factory[..., Problem]) -> Problem:
    """Parse a problem from its printed form; a name alone means the problem with its defaults.

    Nothing is executed or imported.

    Args:
      text: an expression, as for `gdjax.parse`.
      *own: your own factories that the text names.

    Raises:
      ParseError: the text is not a problem; the message has the reason, the column and the text.

    >>> parse("quadratic(1e4)").condition
    10000.0
    >>> parse("digits")
    digits(hidden=64)
    """
    return _parse_problem(text, value.named("problems.parse", own))


def find(text: str) -> Problem:
    """Find a problem as the command line does: by the text that `parse` reads, or as `module:problem`.

    The module is imported, which runs it. After the colon comes the name of a problem in the module, or text that
    `parse` reads, in which the factories of the module are known too.

    Raises:
      ParseError: the text is not a problem, or the module or the problem does not exist.

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
        raise ParseError(f"{reference[0][:80]}: {str(error)[:80]}. Add its folder to PYTHONPATH.") from error
    if isinstance(value_in_module := vars(module).get(inside.strip()), Problem):
        return value_in_module
    _require_problem(module, inside)
    return _parse_problem(inside, {name: x for name, x in vars(module).items() if _is_problem_factory(x)})


def _require_problem(module: ModuleType, inside: str) -> None:
    """Reject a text whose first name is neither a problem of the module nor a built-in one."""
    match = re.match(r"\s*([^\W\d]\w*)\s*(?:\(|$)", inside)
    if match is None or match[1] in factories() or _is_problem_factory(member := vars(module).get(match[1])):
        return
    must = "a function under @gd.problem that returns gd.problems.Parts(init=..., loss=...), or a problem that it made"
    problems = [name for name, x in vars(module).items() if isinstance(x, Problem) or _is_problem_factory(x)]
    if member is None and nearest(match[1], problems):
        return  # a typo, which the parser reports with a suggestion
    wrong = "a function without @gd.problem" if inspect.isfunction(member) else f"a {type(member).__name__}"
    got = "no such name in the module" if member is None else wrong
    raise ParseError(f"{module.__name__}:{match[1]} must be a problem: {must}; got {got}")


def _parse_problem(text: str, own: Factories) -> Problem:
    if isinstance(text, str) and text.strip().isidentifier():
        text = f"{text.strip()}()"
    parsed = value.parse(text, {**factories(), **own}, wanted="a problem")
    if not isinstance(parsed, Problem):
        raise ParseError(f"a problem is needed, got {repr(parsed)[:200]}")
    return parsed


def _is_problem_factory(x: object) -> bool:
    return isinstance(x, Factory) and x.kind is Problem
