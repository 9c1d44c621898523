"""Modules that stand in for those of Optax: Optax's names, and gdjax's own where it has them."""

import importlib
from collections.abc import Callable
from typing import Any

from gdjax import exports


def stand_in(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a submodule of gdjax that stands in for Optax's submodule of that name.

    A name that the submodule does not define is the name of `gdjax` where gdjax defines it, otherwise Optax's.

    Args:
      module: the full name of the submodule, such as `gdjax.contrib`.
    """
    short = module.removeprefix("gdjax.")

    def find(name: str) -> Any:
        if name == "__all__":
            return names()
        if name.startswith("__") or not hasattr(theirs := importlib.import_module(f"optax.{short}"), name):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module("gdjax") if name in exports.HOME else theirs, name)

    def names() -> list[str]:
        theirs = dir(importlib.import_module(f"optax.{short}"))
        ours = (name for name, home in exports.HOME.items() if home.split(".")[0] == short)
        return sorted({*ours, *(name for name in theirs if not name.startswith("_"))})

    return find, names
