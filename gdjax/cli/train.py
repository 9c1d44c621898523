"""`gdjax train`: its options, and the checks that need no JAX."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from gdjax.cli import config, run_folder
from gdjax.cli.arguments import MAX_COUNT, batch_size, require_given
from gdjax.cli.errors import InputError, in_a_sentence, printable
from gdjax.cli.processes import group
from gdjax.cli.request import Base, Request, resumed

EXPRESSION = "digits, or 'quadratic(condition=1e4)': an expression of what gdjax problems lists."


def train(
    context: typer.Context,
    problem: Annotated[str | None, typer.Argument(help=EXPRESSION, show_default=False)] = None,
    own: Annotated[
        str | None,
        typer.Option("--problem", metavar="MODULE:NAME", help="The same, or one of your own in a module."),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="EXPR", help="'chain(clip_by_global_norm(1), adamw(3e-3))': as one prints.")
    ] = None,
    batch_size_: Annotated[str | None, typer.Option("--batch-size", metavar="N|full", help="Rows a step.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Times through the data.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Updates, instead of epochs.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="GOAL", help="Ends it before: 'accuracy>0.97', 'loss<0.1'.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Of weights and of the order of rows.")
    ] = None,
    mesh: Annotated[
        str | None, typer.Option(metavar="AXIS=N", help="Devices over which every batch is divided: data=8.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="A file or folder, for problem text.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the run is kept: runs/PROBLEM-1, -2, ...")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, to the bit.")] = False,
    file: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="config.toml of a run: repeats it, to the bit.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Import the module that the file of --config or --resume names.")
    ] = False,
    save_every: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Steps between checkpoints, beside once a minute."),
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of several processes: where process 0 is found.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many there are.")] = None,
    process_id: Annotated[int | None, typer.Option(min=0, metavar="I", help="Which this is, from 0.")] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep compiled programs for the next run.")] = True,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Descend on a problem; by default on digits.

    Bare, it reaches a held-out accuracy above 0.97 within a minute. The folder of the run gets config.toml,
    metrics.jsonl, curves.png and checkpoints.

    Several processes are one run, each with its part of the devices of --mesh: as SLURM, Open MPI or Kubernetes has
    started them, or by --coordinator, --num-processes and --process-id.

    Exit status: 0 done; 1 failed on the way (a loss that is not finite, a full disk); 2 asked for what cannot be;
    3 ended without reaching --until; 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM, each after saving.
    """
    with in_a_sentence(debug):
        if problem is not None and own is not None:
            raise InputError(f"PROBLEM and --problem are the same, got {problem!r} and {own!r}: give one of them.")
        texts = {
            "PROBLEM": problem,
            "--problem": own,
            "--optimizer": optimizer,
            "--batch-size": batch_size_,
            "--until": until,
            "--mesh": mesh,
            "--data": data,
            "--out": out,
            "--config": file,
            "--coordinator": coordinator,
        }
        require_given(texts)
        wishes: dict[str, Any] = {
            "problem": problem if own is None else own,
            "optimizer": optimizer,
            "batch_size": None if batch_size_ is None else batch_size(batch_size_),
            "epochs": epochs,
            "steps": steps,
            "until": until,
            "seed": seed,
            "mesh": mesh,
            "data": data and str(Path(data).absolute()),
        }
        given = {name: wish for name, wish in wishes.items() if wish is not None}
        out_folder, config_file = (None if path is None else Path(path) for path in (out, file))
        config.require_names(out_folder, given)
        called = {name: f"--{name.replace('_', '-')}" for name in given}
        if problem is not None:
            called["problem"] = "PROBLEM"
        if resume:
            out_folder = resumed(out_folder, config_file)
            config_file = run_folder.Run(out_folder).config
        request = Request(given, called, config_file, out_folder, resume, trust, save_every)
        processes = group(coordinator, num_processes, process_id)
        base = None
        with contextlib.nullcontext() if processes.alone else contextlib.suppress(InputError):  # raised later, for all
            base = request.base(processes.alone)
        _greet(request, base, processes.speaks)

        from gdjax.cli import devices, session

        if cache:
            devices.keep_programs()
        session.run(request, base if processes.alone else None, processes, context.obj)


def _greet(request: Request, base: Base | None, speaks: bool) -> None:
    """Print the problem while JAX is loaded, which takes seconds."""
    asked = {**(base.says if base else {}), **request.given}
    problem = printable(str(asked.get("problem", "digits")).strip().replace("\n", " "))
    if speaks:
        print(f"{problem if len(problem) <= 80 else f'{problem[:77]}...'}: loading JAX", flush=True)
