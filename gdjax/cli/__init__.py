"""Command line of gdjax: `gdjax train`, and commands that list problems and optimizers."""

import atexit
import importlib.util
import sys

if not all(importlib.util.find_spec(name) for name in ("rich", "typer")):
    raise SystemExit("gdjax: the command line needs typer and rich: pip install 'gdjax[train]'")


def main() -> None:
    """Run the command that the arguments name.

    Signals are handled before anything else is loaded. Each command loads only what it needs: `gdjax --help` does not
    load JAX.
    """
    from gdjax.cli.signals import handle_signals, ignore_signals

    with handle_signals() as signal_handler:
        from gdjax.cli.app import run

        status = run(signal_handler)
    atexit.register(ignore_signals)
    sys.exit(status)
