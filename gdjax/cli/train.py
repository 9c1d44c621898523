"""`gdjax train`."""

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from jax.sharding import Mesh

from gdjax.cli import backend, config, folder
from gdjax.cli.joining import Joined, hushed, joined
from gdjax.cli.report import report, status
from gdjax.cli.running import descend
from gdjax.cli.status import InputError, Status, in_a_sentence, say
from gdjax.cli.task import Task, batch_size
from gdjax.descent.agreement import Peers, attempted
from gdjax.descent.signals import REASONS, Heard, heard

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
    mesh: Annotated[
        str | None, typer.Option(metavar="AXIS=N", help="Devices over which every batch is divided: data=8.")
    ] = None,
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
            "mesh": mesh,
            "data": data and str(Path(data).absolute()),
        }
        given = {name: wish for name, wish in wishes.items() if wish is not None}
        with joined(coordinator, num_processes, process_id) as processes:
            if resume:
                _resume(given, _resumed(out, file), save_every, processes)
            else:
                _begin(given, out, file, save_every, processes)


def _begin(
    given: dict[str, Any], out: Path | None, file: Path | None, save_every: int | None, processes: Joined
) -> None:
    """A new run, in a folder of its own."""
    base, asked, mesh, peers = _divided(lambda: config.read(file) if file else {}, given, processes, save_every, False)
    if file and peers.first:
        config.compare_versions(file)

    def checked() -> Task:
        task = Task.of(asked)
        for words in config.differences(Task.of(base).asked, task.asked).values() if file and peers.first else ():
            say(f"not as in {file}: {words}.")
        task.check()
        return task

    task = peers.together(checked)
    with folder.shared(peers, folder.new(out, task.problem.factory.__name__)) as run:
        if peers.first:
            config.write(run.config, task.asked)
        raise typer.Exit(_descend(task, run, mesh, peers, processes, save_every, resume=False))


def _resume(given: dict[str, Any], where: Path, save_every: int | None, processes: Joined) -> None:
    """A run that goes on where it was, or longer."""

    def read() -> dict[str, Any]:
        folder.require_run(where)
        return config.read(folder.Run(where).config)

    base, asked, mesh, peers = _divided(read, given, processes, save_every, True)
    if peers.first:
        config.compare_versions(folder.Run(where).config)
    with folder.shared(peers, folder.old(where)) as run:
        task, written = peers.together(lambda: _prolonged(run, base, asked))
        if peers.first and written:
            config.write(run.config, task.asked)
        raise typer.Exit(_descend(task, run, mesh, peers, processes, save_every, resume=True))


def _divided(
    read: Callable[[], dict[str, Any]], given: dict[str, Any], processes: Joined, save_every: int | None, resume: bool
) -> tuple[dict[str, Any], dict[str, Any], Mesh | None, Peers]:
    """What a file says, what is asked for with its mesh, the devices of that, and the processes that have them."""

    def prepared() -> tuple[dict[str, Any], dict[str, Any]]:
        base = read()
        asked = config.over(base, given)
        backend.prepare(asked.get("mesh"), processes.number)
        return base, asked

    found, failure = attempted(prepared)  # what JAX is told before it starts
    peers = Peers(None if processes.number == 1 else backend.one_of_each())
    if not peers.alone:
        hushed(peers.first)
    peers.end_if_any(failure)
    base, asked = found
    words = peers.differing(lambda: {**asked, "save_every": save_every, "resume": resume})

    def divided() -> Mesh | None:
        if words:
            raise InputError(f"every process must be asked for the same {words}.")
        return backend.mesh(asked.get("mesh"))

    if (mesh := peers.together(divided)) is None:
        return base, asked, None, peers
    return base, {**asked, "mesh": f"{mesh.axis_names[0]}={mesh.size}"}, mesh, Peers(mesh)


def _prolonged(run: folder.Run, base: dict[str, Any], asked: dict[str, Any]) -> tuple[Task, bool]:
    """What a run that is resumed was and is asked for, and whether that is something new."""
    task = Task.of(asked)
    other = config.differences(Task.of(base).asked, task.asked)
    if fixed := [words for name, words in other.items() if not config.prolongs(name, base, task.asked)]:
        raise InputError(
            f"{str(run.folder)!r} holds a run of something else: {'; '.join(fixed)}. Leave these out to resume it, or "
            f"begin one by --config {run.config} and another --out."
        )
    task.check()
    if (done := run.steps) > task.steps:
        raise InputError(
            f"{str(run.folder)!r} has taken {done:,} steps already, more than the {task.steps:,} asked for."
        )
    return task, bool(other)


def _resumed(out: Path | None, file: Path | None) -> Path:
    """The folder of the run to go on with."""
    if out is None and file is None:
        raise InputError("--resume needs the folder of the run: --out DIR.")
    if out is not None and file is not None and out.resolve() != file.resolve().parent:
        raise InputError(f"--resume goes on in one folder, got --out {out} and --config {file}: give one of them.")
    return out if out is not None else file.parent  # pyright: ignore[reportOptionalMemberAccess]


def _descend(
    task: Task, run: folder.Run, mesh: Mesh | None, peers: Peers, processes: Joined, save_every: int | None, *,
    resume: bool,
) -> Status:  # fmt: skip
    processes.watch.tell(str(run.folder))
    print(f"{task.asked['problem']} in {run.folder}", flush=True)
    try:
        with contextlib.nullcontext(Heard()) if peers.alone else heard(*REASONS) as early:
            fit = descend(task, run, mesh, peers, early, resume=resume, save_every=save_every)
    except SystemExit as ended:  # what it was, it has said
        if ended.code == Status.TERMINATED and peers.first:
            say(f"gdjax train --resume --out {run.folder} goes on.")
        raise
    finally:
        if not peers.alone:  # a launcher tells some later than others, and all have ended as one
            for number in REASONS:
                signal.signal(number, signal.SIG_IGN)
    if peers.first:
        report(task, run, fit)
    peers.wait()  # or one that is done would wait in vain for one that draws
    return status(task, fit)
