"""Define `gdjax train`: its options, and the checks that need no JAX."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from gdjax.cli import config
from gdjax.cli.arguments import MAX_COUNT, parse_batch_size, require_nonempty
from gdjax.cli.config import Settings
from gdjax.cli.errors import InputError, escape_control_characters, report_errors
from gdjax.cli.processes import process_group
from gdjax.cli.request import ConfigFile, Request, folder_to_resume
from gdjax.cli.run_folder import RunFolder

EXIT_STATUSES = """\b
Exit status:
  0                done
  1                failed: the loss is not finite, the disk is full, ...
  2                invalid arguments
  3                ended without reaching --until
  129, 130, 143    ended by SIGHUP, Ctrl-C or SIGTERM, after saving
"""
"""Last part of the help; the backspace keeps its lines."""


def train(
    context: typer.Context,
    problem: Annotated[
        str | None,
        typer.Argument(
            metavar="PROBLEM",
            help="Name of a problem, or a call: digits, 'quadratic(condition=1e4)'. gdjax problems lists all.",
            show_default=False,
        ),
    ] = None,
    problem_option: Annotated[
        str | None,
        typer.Option("--problem", metavar="MODULE:NAME", help="Same as PROBLEM, or a problem in a module of yours."),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="EXPR", help="Optimizer as it prints: 'chain(clip_by_global_norm(1), adamw(3e-3))'."),
    ] = None,
    batch_size: Annotated[str | None, typer.Option("--batch-size", metavar="N|full", help="Rows per step.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Passes over the data.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Updates, instead of --epochs.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="GOAL", help="Stop early at 'accuracy>0.97', 'loss<0.1', ...")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of the initial parameters and the order of rows."),
    ] = None,
    mesh: Annotated[
        str | None, typer.Option(metavar="AXIS=N", help="Shard every batch over N devices, as in data=8.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="File or folder to read, for the problem text.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the run. Default: runs/PROBLEM-N, with the first free N."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out, bit for bit.")] = False,
    file: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="Repeat the run of a config.toml, bit for bit."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Import the module that the config.toml names.")] = False,
    save_every: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Save a checkpoint every N steps, and once a minute."),
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address of process 0, for a run in several processes.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, metavar="N", help="Number of processes.")] = None,
    process_id: Annotated[int | None, typer.Option(min=0, metavar="I", help="Index of this process, from 0.")] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep compiled programs on disk for the next run.")
    ] = True,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train on a problem, by default digits.

    Without arguments, it reaches a held-out accuracy above 0.97 within a minute. The folder of the run gets
    config.toml, metrics.jsonl, curves.png and checkpoints.

    Several processes can share one run, each with some of the devices of --mesh. Start them with SLURM, Open MPI or
    Kubernetes, or give --coordinator, --num-processes and --process-id to each.
    """
    with report_errors(debug):
        if problem is not None and problem_option is not None:
            raise InputError(
                f"PROBLEM and --problem are the same, got {problem!r} and {problem_option!r}: give one of them."
            )
        require_nonempty(
            {
                "PROBLEM": problem,
                "--problem": problem_option,
                "--optimizer": optimizer,
                "--batch-size": batch_size,
                "--until": until,
                "--mesh": mesh,
                "--data": data,
                "--out": out,
                "--config": file,
                "--coordinator": coordinator,
            }
        )
        values = {
            "problem": problem if problem_option is None else problem_option,
            "optimizer": optimizer,
            "batch_size": None if batch_size is None else parse_batch_size(batch_size),
            "epochs": epochs,
            "steps": steps,
            "until": until,
            "seed": seed,
            "mesh": mesh,
            "data": data and str(Path(data).absolute()),
        }
        given: Settings = {name: value for name, value in values.items() if value is not None}  # pyright: ignore[reportAssignmentType]
        flags = {name: f"--{name.replace('_', '-')}" for name in given}
        if problem is not None:
            flags["problem"] = "PROBLEM"
        folder, config_file = (None if path is None else Path(path) for path in (out, file))
        config.require_storable(folder, given)
        if resume:
            folder = folder_to_resume(folder, config_file)
            config_file = RunFolder(folder).config
        request = Request(given, flags, config_file, folder, resume, trust, save_every)
        processes = process_group(coordinator, num_processes, process_id)
        contents = None
        # several processes raise an error in the file together, after they have joined
        with contextlib.nullcontext() if processes.is_single else contextlib.suppress(InputError):
            contents = request.read_config(may_ask=processes.is_single)
        if processes.is_first:
            _print_problem(request, contents)

        from gdjax.cli import compilation_cache, session

        if cache:
            compilation_cache.enable_compilation_cache()
        session.run(request, contents if processes.is_single else None, processes, context.obj)


def _print_problem(request: Request, contents: ConfigFile | None) -> None:
    """Print the problem before JAX is loaded, which takes seconds."""
    stored: Settings = contents.settings if contents else {}
    text = request.given.get("problem", stored.get("problem", "digits"))
    problem = escape_control_characters(text.strip().replace("\n", " "))
    print(f"{problem if len(problem) <= 80 else f'{problem[:77]}...'}: loading JAX", flush=True)
