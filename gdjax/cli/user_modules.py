"""Import a problem from a user's module: permission for modules that a file names, and the current directory.

Importing a module runs it. A module on the command line is the user's choice; one in a `config.toml` may be a
stranger's.
"""

import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from gdjax.cli.config import Settings
from gdjax.cli.errors import InputError, escape_control_characters

REFERENCE = re.compile(r"\s*([\w.]+):")
"""Start of a problem in a module: the name of the module, and a colon."""
PACKAGE = "gdjax"


def is_import_allowed(file: Path, settings: Settings, given: Settings, *, trusted: bool, may_ask: bool) -> bool:
    """Return True if the module that a file names may be imported.

    It may if the command line names it too, if `--trust` is given, or if the user agrees at a terminal. The module is
    not needed if the command line names another problem.

    Args:
      file: the `config.toml`.
      settings: its contents.
      given: the settings on the command line.
      trusted: True for `--trust`.
      may_ask: True if this is the only process of the run, so that its terminal can be asked.

    Raises:
      InputError: if the run needs the module and may not import it.
    """
    module = _module_name(settings.get("problem"))
    if module is None or trusted or module == _module_name(given.get("problem")):
        return True
    if "problem" in given:
        return False
    fact = f"{str(file)!r} names the module {module!r}{_location(module)}, and importing it runs its code"
    if not (may_ask and _user_agrees(fact)):
        raise InputError(f"{fact}: read it, then add --trust, or name the module on the command line.")
    return True


@contextlib.contextmanager
def search_current_directory() -> Iterator[None]:
    """Search the current directory first within this context, and last after it.

    A file there must not shadow a library that gdjax or JAX loads later. The end of `sys.path` is not last enough: a
    module anywhere on it wins over a namespace package, and JAX runs whatever lies in a folder `jax_plugins`.
    """
    here = str(Path.cwd())
    before = [path for path in sys.path if path != here]
    sys.path[:] = [here, *before]
    try:
        yield
    finally:
        sys.path[:] = before
        if _FolderFinder(here) not in sys.meta_path:
            sys.meta_path.append(_FolderFinder(here))


@dataclasses.dataclass(frozen=True)
class _FolderFinder(importlib.abc.MetaPathFinder):
    """Find modules in one folder, for imports that a user's module makes later."""

    folder: str

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.PathFinder.find_spec(fullname, [self.folder]) if path is None else None


def _module_name(problem: str | None) -> str | None:
    """Return the module that a problem's text names; `None` for a registered problem, or a module of gdjax."""
    match = problem and REFERENCE.match(problem)
    return match[1] if match and match[1].split(".")[0] != PACKAGE else None


def _location(module: str) -> str:
    """Return the file or folder of a module in brackets, without an import; empty if it is not found."""
    spec = importlib.machinery.PathFinder.find_spec(module.split(".")[0], [str(Path.cwd()), *sys.path])
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    return next((f" ({place})" for place in places if place), "")


def _user_agrees(fact: str) -> bool:
    """Ask at a terminal; return False without one."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        return False
    print(f"gdjax: {escape_control_characters(fact)}. Import it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
