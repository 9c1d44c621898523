"""The command line: `gdjax train`, and what it can be told."""

try:
    import rich as _rich  # noqa: F401
    import typer as _typer  # noqa: F401
except ModuleNotFoundError as error:
    raise SystemExit("gdjax: the command line needs typer and rich: pip install 'gdjax[train]'") from error

from gdjax.cli.app import main as main
