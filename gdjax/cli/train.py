"""`gdjax train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gdjax.cli import backend, config, folder
from gdjax.cli.report import report
from gdjax.cli.running import descend
from gdjax.cli.status import InputError, Status, in_a_sentence, say
from gdjax.cli.task import Task, batch_size

EXPRESSION = "digits, or 'quadratic(condition=1e4)': an expression of what gdjax problems lists."


def train(
    problem: Annotated[str | None, typer.Argument(help=EXPRESSION, show_default=False)] = None,
    own: Annotated[
        str | None,
        typer.Option("--problem", metavar="MODULE:NAME", help="The same, or one of your own in a module."),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="EXPR", help="'chain(clip_by_global_norm(1), adamw(3e-3))': as one prints.")
    ] = None,
    batch_size_: Annotated[str | None, typer.Option("--batch-size", metavar="N|full", help="Rows a step.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Times through the data.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Updates, in the place of epochs.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="GOAL", help="Ends it before: 'accuracy>0.97', 'loss<0.1'.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Of weights and of the order of rows.")
    ] = None,
    devices: Annotated[int | None, typer.Option(min=1, metavar="N", help="Over which every batch is divided.")] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="A file or folder, for problem text.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run is kept: runs/PROBLEM-1, -2, ...")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, to the bit.")] = False,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="config.toml of a run: repeats it, to the bit.")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Steps between checkpoints, beside once a minute.")
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep compiled programs for the next run.")] = True,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Descend on a problem; by default on digits.

    Bare, it reaches a held-out accuracy above 0.97 within a minute. The folder of the run gets config.toml,
    metrics.jsonl, curves.png and checkpoints.

    Exit status: 0 done; 1 failed on the way (a loss that is not finite, a full disk); 2 asked for what cannot be;
    3 ended without reaching --until; 130 Ctrl-C, saved; 143 SIGTERM, saved.
    """
    with in_a_sentence(debug):
        if cache:
            backend.keep_programs()
        if problem is not None and own is not None:
            raise InputError(f"PROBLEM and --problem are the same, got {problem!r} and {own!r}: give one of them.")
        wishes: dict[str, Any] = {
            "problem": problem if own is None else own,
            "optimizer": optimizer,
            "batch_size": None if batch_size_ is None else batch_size(batch_size_),
            "epochs": epochs,
            "steps": steps,
            "until": until,
            "seed": seed,
            "devices": devices,
            "data": data and str(Path(data).absolute()),
        }
        given = {name: wish for name, wish in wishes.items() if wish is not None}
        if resume:
            _resume(given, _resumed(out, file), save_every)
        else:
            _begin(given, out, file, save_every)


def _begin(given: dict[str, Any], out: Path | None, file: Path | None, save_every: int | None) -> None:
    """A new run, in a folder of its own."""
    base = config.read(file) if file else {}
    task = Task.of(config.over(base, given))
    if file:
        for words in config.differences(Task.of(base).asked, task.asked).values():
            say(f"not as in {file}: {words}.")
    mesh = backend.mesh(task.asked["devices"])
    task.check()
    with folder.new(out, task.problem.factory.__name__) as run:
        config.write(run.config, task.asked)
        _descend(task, run, mesh, save_every, resume=False)


def _resume(given: dict[str, Any], where: Path, save_every: int | None) -> None:
    """A run that goes on where it was, or longer."""
    with folder.old(where) as run:
        base = config.read(run.config)
        task = Task.of(config.over(base, given))
        other = config.differences(Task.of(base).asked, task.asked)
        if fixed := [words for name, words in other.items() if not config.prolongs(name, base, task.asked)]:
            raise InputError(
                f"{str(where)!r} holds a run of something else: {'; '.join(fixed)}. Leave these out to resume it, or "
                f"begin one by --config {run.config} and another --out."
            )
        mesh = backend.mesh(task.asked["devices"])
        task.check()
        if (done := run.steps) > task.steps:
            raise InputError(
                f"{str(where)!r} has taken {done:,} steps already, more than the {task.steps:,} asked for."
            )
        if other:
            config.write(run.config, task.asked)
        _descend(task, run, mesh, save_every, resume=True)


def _resumed(out: Path | None, file: Path | None) -> Path:
    """The folder of the run to go on with."""
    if out is None and file is None:
        raise InputError("--resume needs the folder of the run: --out DIR.")
    if out is not None and file is not None and out.resolve() != file.resolve().parent:
        raise InputError(f"--resume goes on in one folder, got --out {out} and --config {file}: give one of them.")
    return out if out is not None else file.parent  # pyright: ignore[reportOptionalMemberAccess]


def _descend(task: Task, run: folder.Run, mesh: Any, save_every: int | None, *, resume: bool) -> None:
    print(f"{task.asked['problem']} in {run.folder}", flush=True)
    try:
        fit = descend(task, run, mesh, resume=resume, save_every=save_every)
    except SystemExit as ended:  # what it was, it has said
        if ended.code == Status.TERMINATED:
            say(f"gdjax train --resume --out {run.folder} goes on.")
        raise
    raise typer.Exit(report(task, run, fit))
