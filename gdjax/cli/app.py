"""Define the commands, their arguments and their help. Each command imports what it needs when it runs."""

import io
import os
import platform
import sys
from typing import Annotated

import typer

import gdjax
from gdjax.cli.errors import ExitStatus, print_message, report_errors
from gdjax.cli.signals import SignalHandler
from gdjax.cli.suggestions import usage_message
from gdjax.cli.train import EXIT_STATUSES, train

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Gradient descent for JAX: an optimizer is a value.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=EXIT_STATUSES)(train)

DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def problems(debug: DEBUG = False) -> None:
    """List the problems to train on."""
    with report_errors(debug):
        from gdjax.cli import listing

        listing.problems()


@app.command()
def optimizers(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of an optimizer, transform, wrapper or schedule.")
    ] = None,
    debug: DEBUG = False,
) -> None:
    """List the optimizers, or print the documentation of one.

    The documentation gives its formula, default arguments, state size, source and an example.
    """
    with report_errors(debug):
        from gdjax.cli import listing

        listing.optimizers(name)


@app.command()
def describe(
    expression: Annotated[
        str, typer.Argument(metavar="EXPR", help="Optimizer as it prints, such as 'adamw(1e-3)'.", show_default=False)
    ],
    problem: Annotated[str, typer.Option(metavar="P", help="Problem whose parameters it updates.")] = "digits",
    debug: DEBUG = False,
) -> None:
    """Show what an optimizer does to each parameter of a problem.

    One line per parameter gives its transform and the size of its state in bytes.
    """
    with report_errors(debug):
        from gdjax.cli import listing

        listing.describe(expression, problem)


@app.callback(invoke_without_command=True)
def _commands(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Gradient descent for JAX: an optimizer is a value."""
    if version:
        from importlib.metadata import version as installed

        print(f"gdjax {gdjax.__version__}, jax {installed('jax')}, python {platform.python_version()}")
        raise typer.Exit(ExitStatus.DONE)
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(signal_handler: SignalHandler) -> int | None:
    """Run the command that the arguments name, and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals that lack the letters of formulas
    stdout = sys.stdout
    try:
        status: int | None = app(prog_name="gdjax", standalone_mode=False, obj=signal_handler)
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader is gone, as with `| head`
        status = ExitStatus.PIPE_CLOSED
    except SystemExit as ended:  # raised by a descent, or by Typer for a closed pipe
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        status = ExitStatus.PIPE_CLOSED
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of Typer's errors about the command line
            raise
        print_message(usage_message(error))  # pyright: ignore[reportArgumentType]
        return ExitStatus.BAD_INPUT
    if status == ExitStatus.PIPE_CLOSED:
        devnull = os.open(os.devnull, os.O_WRONLY)
        for stream in (stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                os.dup2(devnull, stream.fileno())  # takes what is left in the buffer
    return status
