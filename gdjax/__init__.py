"""Gradient descent for JAX: an optimizer is a value.

Names are imported on first use, so `import gdjax` loads neither JAX nor Optax. `__init__.pyi` declares the same names
for type checkers and completion.
"""

import importlib
import importlib.util
from typing import Any

from gdjax import exports as _exports

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a name on first use: from gdjax where gdjax defines it, otherwise from Optax."""
    if name == "__all__":
        return __dir__()
    if name.startswith("_"):
        raise AttributeError(f"module 'gdjax' has no attribute {name!r}")
    value = globals()[name] = _import(name)
    return value


def __dir__() -> list[str]:
    optax = importlib.import_module("optax")
    return sorted(
        {*_exports.HOME, *_exports.MODULES.split(), *(name for name in dir(optax) if not name.startswith("_"))}
    )


def _import(name: str) -> Any:
    if name in _exports.HOME:
        return getattr(importlib.import_module(f"gdjax.{_exports.HOME[name]}"), name)
    if importlib.util.find_spec(f"gdjax.{name}"):
        return importlib.import_module(f"gdjax.{name}")
    optax = importlib.import_module("optax")
    if not hasattr(optax, name):
        package = importlib.import_module("gdjax")
        raise AttributeError(f"module 'gdjax' has no attribute {name!r}", name=name, obj=package)
    return getattr(optax, name)
