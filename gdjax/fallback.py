"""Modules that stand in for Optax's: a name that gdjax has is gdjax's, every other name is Optax's."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def stand_in(module: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a submodule of gdjax that stands in for Optax's submodule of that name.

    A name that the submodule does not define is gdjax's public object of that name, and otherwise Optax's.

    Args:
      module: the full name of the submodule, such as `gdjax.contrib`.
      homes: the public names of gdjax, each with the submodule that defines it.
    """
    package, _, short = module.partition(".")

    def find(name: str) -> Any:
        if name == "__all__":
            return names()
        if name.startswith("__") or not hasattr(theirs := importlib.import_module(f"optax.{short}"), name):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}") if name in homes else theirs, name)

    def names() -> list[str]:
        theirs = dir(importlib.import_module(f"optax.{short}"))
        ours = (name for name, home in homes.items() if home.split(".")[0] == short)
        return sorted({*ours, *(name for name in theirs if not name.startswith("_"))})

    return find, names
