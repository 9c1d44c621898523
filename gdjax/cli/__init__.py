"""The command line: `gdjax train`, and commands that list problems and optimizers."""

import atexit
import importlib.util
import sys

if not all(importlib.util.find_spec(name) for name in ("rich", "typer")):
    raise SystemExit("gdjax: the command line needs typer and rich: pip install 'gdjax[train]'")


def main() -> None:
    """Run the command that the arguments name.

    Signals are watched before anything else is loaded, and each command loads what it needs: `gdjax --help` needs no
    JAX.
    """
    from gdjax.cli.signals import ignored, watched

    with watched() as watch:
        from gdjax.cli.app import run

        status = run(watch)
    atexit.register(ignored)
    sys.exit(status)
