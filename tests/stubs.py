"""Write the stubs of the modules whose names are imported on first use: `python -m tests.stubs`."""

import importlib
import pathlib

import gdjax as gd
from gdjax import exports

PACKAGE = pathlib.Path(gd.__file__).parent
STUB = PACKAGE / "__init__.pyi"
STAND_INS = ["contrib", "experimental", "microbatching"]
"""The submodules that have Optax's names alone, or names of other submodules."""


def texts():
    """The text of every stub, by its path."""
    modules = {name: "gdjax" for name in exports.MODULES.split()}
    names = {name: f"gdjax.{home}" for name, home in exports.HOME.items()}
    stubs = {STUB: _stub("gdjax", {**_optax("optax"), **names, **modules}) + "\n__version__: str\n"}
    for module in STAND_INS:
        theirs = _optax(f"optax.{module}")
        ours = {name: home for name, home in names.items() if name in theirs}
        stubs[PACKAGE / f"{module}.pyi"] = _stub(f"gdjax.{module}", {**theirs, **ours})
    return stubs


def _optax(module):
    return {name: module for name in dir(importlib.import_module(module)) if not name.startswith("_")}


def _stub(module, home):
    """One import for each name, Optax's and then gdjax's, in the linter's order."""
    ordered = sorted(home, key=lambda name: (home[name], name.islower(), name.lower()))
    lines = {
        package: [name for name in ordered if home[name].split(".")[0] == package] for package in ("optax", "gdjax")
    }
    imports = ["\n".join(f"from {home[x]} import {x} as {x}" for x in names) for names in lines.values() if names]
    doc = importlib.import_module(module).__doc__.splitlines()[0]
    return "\n\n".join([f'"""{doc}"""', *imports]) + "\n"


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text)
