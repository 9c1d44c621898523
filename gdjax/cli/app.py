"""The commands there are."""

import io
import platform
import sys
from typing import Annotated, Any

import jax
import typer

import gdjax
from gdjax.cli.listing import describe, optimizers, problems
from gdjax.cli.status import Status, say
from gdjax.cli.train import train

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Gradient descent for JAX: an optimizer is a value.",
)
app.command()(train)
app.command()(problems)
app.command()(optimizers)
app.command()(describe)


@app.callback(invoke_without_command=True)
def _commands(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False,
) -> None:
    """Gradient descent for JAX: an optimizer is a value."""
    if version:
        print(f"gdjax {gdjax.__version__}, jax {jax.__version__}, python {platform.python_version()}")
        raise typer.Exit(Status.DONE)
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command that the arguments name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # formulas on a terminal without their letters
    try:
        status: Any = app(prog_name="gdjax", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", "gdjax")
        message: str = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        say(f"{message}{'' if message.endswith(('.', '?')) else '.'} {command} --help tells what there is.")
        status = Status.WRONG
    sys.exit(status)
