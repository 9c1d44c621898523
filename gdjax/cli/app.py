"""The commands, their arguments and their help. Each imports what it needs when it runs."""

import io
import os
import platform
import sys
from typing import Annotated, Any

import typer

import gdjax
from gdjax.cli.errors import Status, in_a_sentence, say
from gdjax.cli.signals import Watch
from gdjax.cli.suggestions import hinted
from gdjax.cli.train import train

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Gradient descent for JAX: an optimizer is a value.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)

DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def problems(debug: DEBUG = False) -> None:
    """List the problems to descend on."""
    with in_a_sentence(debug):
        from gdjax.cli import listing

        listing.problems()


@app.command()
def optimizers(
    name: Annotated[str | None, typer.Argument(help="Name of an optimizer, transform, wrapper or schedule.")] = None,
    debug: DEBUG = False,
) -> None:
    """List the optimizers, or print the page of one.

    The page has its formula, its defaults, the bytes of its state, its source and an example.
    """
    with in_a_sentence(debug):
        from gdjax.cli import listing

        listing.optimizers(name)


@app.command()
def describe(
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="An optimizer, as it prints.")],
    problem: Annotated[str, typer.Option(metavar="P", help="The problem whose parameters it gets.")] = "digits",
    debug: DEBUG = False,
) -> None:
    """List what an optimizer does to each parameter of a problem.

    The list has the bytes of state for each parameter.
    """
    with in_a_sentence(debug):
        from gdjax.cli import listing

        listing.describe(expression, problem)


@app.callback(invoke_without_command=True)
def _commands(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False,
) -> None:
    """Gradient descent for JAX: an optimizer is a value."""
    if version:
        from importlib.metadata import version as installed

        print(f"gdjax {gdjax.__version__}, jax {installed('jax')}, python {platform.python_version()}")
        raise typer.Exit(Status.DONE)
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(watch: Watch) -> Any:
    """Run the command that the arguments name, and return its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # formulas on a terminal without their letters
    stdout, status = sys.stdout, Status.DONE
    try:
        status: Any = app(prog_name="gdjax", standalone_mode=False, obj=watch)
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:  # as with `| head`: the reader is gone
        status = Status.PIPE_CLOSED
    except SystemExit as ended:  # a descent's own, or Typer's because of a closed pipe
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        status = Status.PIPE_CLOSED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        say(hinted(error))
        return Status.WRONG
    if status == Status.PIPE_CLOSED:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                os.dup2(nowhere, stream.fileno())  # what is left in its buffer goes there
    return status
