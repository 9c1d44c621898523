"""Ask before a file makes code run: importing the module that it names runs that module."""

import importlib.machinery
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdjax.cli.errors import InputError, printable

REFERENCE = re.compile(r"\s*([\w.]+):")
"""Beginning of a problem in a module: the name of the module, and a colon."""
PACKAGE = "gdjax"


def module_of(problem: Any) -> str | None:
    """Return the module that a problem's text names; `None` for a problem by name, and for modules of gdjax itself."""
    found = REFERENCE.match(problem) if isinstance(problem, str) else None
    if found is None or found[1].split(".")[0] == PACKAGE:
        return None
    return found[1]


def may_import(file: Path, base: Mapping[str, Any], given: Mapping[str, Any], *, trusted: bool, alone: bool) -> bool:
    """Return whether the module that a file names may be imported.

    It may where the command line names it too, or says `--trust`; at a terminal the user is asked. It need not be where
    the command line names another problem.

    Args:
      file: the configuration.
      base: its contents.
      given: the request on the command line.
      trusted: `--trust`.
      alone: whether this is the only process of the run, whose terminal may be asked.

    Raises:
      InputError: if it may not, and the run needs it.
    """
    module = module_of(base.get("problem"))
    if module is None or trusted or module == module_of(given.get("problem")):
        return True
    if "problem" in given:
        return False
    fact = f"{str(file)!r} names the module {module!r}{_where(module)}, and importing it runs its code"
    if not (alone and _agreed(fact)):
        raise InputError(f"{fact}: read it, then add --trust, or name the module on the command line.")
    return True


def _where(module: str) -> str:
    """Return where a module would be found, in words; nothing is imported."""
    found = importlib.machinery.PathFinder.find_spec(module.split(".")[0], [str(Path.cwd()), *sys.path])
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or ())]
    return next((f" ({place})" for place in places if place), "")


def _agreed(fact: str) -> bool:
    """Ask at a terminal; elsewhere the answer is no."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        return False
    print(f"gdjax: {printable(fact)}. Import it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
