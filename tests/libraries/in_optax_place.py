"""A pytest plugin that runs Optax's own tests with gdjax in Optax's place.

    python -m pytest -c tests/libraries/optax.ini --pyargs optax

A test module of Optax sees gdjax's object wherever it asks Optax for a public one: as `optax.adam`, as
`optax.transforms.chain`, or through a private module, `optax._src.alias.adam`. Optax itself keeps its own.
"""

import builtins
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import optax
import pytest

import gdjax
import tests.conftest  # noqa: F401  (programs compile as those of the other tests do)

SUBMODULES = [name for name, part in vars(optax).items() if isinstance(part, ModuleType) and not name.startswith("_")]
DIFFERENCES = json.loads(Path(__file__).with_name("differences.json").read_text())
"""The tests that must fail, and the row of docs/differences_from_optax.md that says why."""
FAIL_IN_OPTAX = {f"_src/linear_algebra_test.py::LinearAlgebraTest::test_nnls{i}" for i in (4, 5)}
"""Tests that fail with Optax itself on some processors: they allow a residual no rounding."""


class Version(str):
    """A version that compares number by number: as strings 0.10 comes before 0.7, and tests would be skipped."""

    def __lt__(self, other: str) -> bool:
        return self._numbers(self) < self._numbers(other)

    def __ge__(self, other: str) -> bool:
        return not self < other

    @staticmethod
    def _numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")[:3] if part.isdigit()]


class Posing(ModuleType):
    """A module of Optax, or JAX, as its tests see it."""

    def __init__(self, theirs: ModuleType, ours: dict[int, Any] | None = None, **names: Any):
        super().__init__(theirs.__name__, theirs.__doc__)
        self.__dict__.update(names, _theirs=theirs, _ours=ours or {})

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._theirs, name)
        if isinstance(found, ModuleType) and self._ours and found.__name__.startswith("optax"):
            return posing(found.__name__)
        return found if name.startswith("_") else self._ours.get(id(found), found)


@functools.cache
def ours() -> dict[int, Any]:
    """Return gdjax's object for the identity of each public object of Optax."""
    found = {}
    for name in ["", *SUBMODULES]:
        theirs = importlib.import_module(f"optax.{name}".rstrip("."))
        mine = functools.reduce(getattr, filter(None, [name]), gdjax)
        public = [name for name in dir(theirs) if not name.startswith("_")]
        found |= {
            id(getattr(theirs, name)): getattr(mine, name)
            for name in public
            if not isinstance(getattr(theirs, name), ModuleType)
        }
    return found


@functools.cache
def posing(name: str) -> ModuleType:
    """Return the module of Optax of this name as its tests see it."""
    return Posing(importlib.import_module(name), ours())


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """Import as Python does, but a posing module instead of one of Optax."""
    found = builtins.__import__(name, globals, locals, fromlist, level)
    if found.__name__.split(".")[0] == "optax":
        for part in fromlist or ():
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
        return posing(found.__name__)
    return Posing(jax, __version__=Version(jax.__version__)) if found is jax and not fromlist else found


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if not (fullname.startswith("optax.") and fullname.endswith("_test")):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(fullname, spec.origin))


def pytest_configure() -> None:
    sys.meta_path.insert(0, _Finder())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect a listed test to fail, and nothing else; skip one that fails in a subtest, which pytest counts apart."""
    for item in items:
        where = item.nodeid.split("optax/", 1)[-1]
        if where in DIFFERENCES:
            item.add_marker(pytest.mark.xfail(strict=True, reason=DIFFERENCES[where]))
        elif where in FAIL_IN_OPTAX:
            item.add_marker(pytest.mark.skip(reason="it fails with Optax itself"))
        elif (reason := DIFFERENCES.get(f"{where} [subtest]")) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
