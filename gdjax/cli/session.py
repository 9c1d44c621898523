"""Run a request to its exit status, in one process or several."""

import contextlib
import signal
from pathlib import Path
from typing import Any

import typer
from jax.sharding import Mesh

from gdjax.cli import config, devices, run_folder
from gdjax.cli.distributed import Joined, hushed, joined
from gdjax.cli.errors import InputError, Status, say
from gdjax.cli.fitting import descend
from gdjax.cli.processes import Group
from gdjax.cli.report import report, status
from gdjax.cli.request import Base, Request
from gdjax.cli.run_spec import Task
from gdjax.cli.signals import Watch
from gdjax.descent.loop.signals import REASONS, Heard, heard
from gdjax.descent.peers import Peers, attempted


def run(request: Request, base: Base | None, group: Group, watch: Watch) -> None:
    """Begin or resume a run; it ends by raising `typer.Exit`.

    Args:
      request: what the command line asks for.
      base: the contents of the file, if it was read already.
      group: the processes of the run.
      watch: the watch of signals.
    """
    with joined(group, watch) as processes:
        of_all = _Session(request, processes, watch)
        if request.resume:
            of_all.go_on(base)
        else:
            of_all.begin(base)


class _Session:
    """One run in all of its processes."""

    def __init__(self, request: Request, processes: Joined, watch: Watch):
        self._asked, self._processes, self._watch = request, processes, watch

    def begin(self, base: Base | None) -> None:
        """Begin a run in a new folder."""
        request = self._asked
        base, asked, mesh, peers = self._divided(base)
        if request.file and peers.first:
            config.compare_versions(request.file)

        def checked() -> Task:
            task = Task.of(asked, request.names)
            if request.file and peers.first:
                for words in config.differences(_then(base, task, request), task.asked).values():
                    say(f"not as in {request.file}: {words}.")
            task.check()
            return task

        task = peers.together(checked)
        with run_folder.shared(peers, run_folder.new(request.out, task.problem.factory.__name__)) as run:
            if peers.first:
                config.write(run.config, task.asked)
            raise typer.Exit(self._descend(task, run, mesh, peers))

    def go_on(self, base: Base | None) -> None:
        """Resume a run, or make it longer."""
        request = self._asked
        where = run_folder.Run(request.out or Path())
        base, asked, mesh, peers = self._divided(base)
        if peers.first:
            config.compare_versions(where.config)
        with run_folder.shared(peers, run_folder.old(where.folder)) as run:
            task, written = peers.together(lambda: self._prolonged(run, base, asked))
            if peers.first and written:
                config.write(run.config, task.asked)
            raise typer.Exit(self._descend(task, run, mesh, peers))

    def _divided(self, base: Base | None) -> tuple[Base, dict[str, Any], Mesh | None, Peers]:
        """Return what the file says, what is asked for, the devices of its mesh, and the processes that have them."""
        request, processes = self._asked, self._processes

        def prepared() -> tuple[Base, dict[str, Any]]:
            read = request.base(alone=False) if base is None else base
            asked = config.over(read.says, request.given)
            devices.prepare(asked.get("mesh"), processes.number)
            return read, asked

        found, failure = attempted(prepared)  # settings that JAX needs before it starts
        peers = Peers(None if processes.number == 1 else devices.one_of_each())
        if not peers.alone:
            hushed(peers.first)
        peers.end_if_any(failure)
        read, asked = found
        words = peers.differing(lambda: {**asked, "save_every": request.save_every, "resume": request.resume})

        def divided() -> Mesh | None:
            if words:
                raise InputError(f"every process must be asked for the same {words}.")
            return devices.mesh(asked.get("mesh"))

        if (mesh := peers.together(divided)) is None:
            return read, asked, None, peers
        return read, {**asked, "mesh": f"{mesh.axis_names[0]}={mesh.size}"}, mesh, Peers(mesh)

    def _prolonged(self, run: run_folder.Run, base: Base, asked: dict[str, Any]) -> tuple[Task, bool]:
        """Return the task of a resumed run, and whether it differs from what the folder says."""
        task = Task.of(asked, self._asked.names)
        other = config.differences(_then(base, task, self._asked), task.asked)
        if fixed := [words for name, words in other.items() if not config.prolongs(name, base.says, task.asked)]:
            raise InputError(
                f"{str(run.folder)!r} holds a run of something else: {'; '.join(fixed)}. Leave these out to resume it, "
                f"or begin one by --config {run.config} and another --out."
            )
        task.check()
        if (done := run.steps) > task.steps:
            raise InputError(
                f"{str(run.folder)!r} has taken {done:,} steps already, more than the {task.steps:,} asked for."
            )
        return task, bool(other)

    def _descend(self, task: Task, run: run_folder.Run, mesh: Mesh | None, peers: Peers) -> Status:
        resume, watch = self._asked.resume, self._watch
        self._processes.watch.tell(str(run.folder))
        print(f"{task.asked['problem']} in {run.folder}", flush=True)
        go_on = f"gdjax train --resume --out {run.folder}"
        before = "what was saved earlier stays" if resume else "no step was taken"
        watch.outcome = f"{before}: {go_on} goes on"
        watch.saves = not peers.alone  # they end together, at one step
        try:
            with contextlib.nullcontext(Heard()) if peers.alone else heard(*REASONS) as early:
                fit = descend(task, run, mesh, peers, early, watch, resume=resume, save_every=self._asked.save_every)
        except SystemExit as ended:  # it has said why
            if ended.code in (Status.TERMINATED, Status.HUNG_UP) and peers.first:
                say(f"{go_on} goes on.")
            raise
        finally:
            watch.saves, watch.outcome = False, f"the run is in {run.folder}: {go_on} goes on"
            if not peers.alone:  # a launcher may signal some late, when all have ended
                for number in REASONS:
                    signal.signal(number, signal.SIG_IGN)
        if peers.first:
            report(task, run, fit)
        peers.wait()  # or one that is done would wait in vain for one that draws
        if watch.unheard is None:
            return status(task, fit)
        say(f"interrupted; {watch.outcome}.")
        return Status(128 + watch.unheard)


def _then(base: Base, task: Task, request: Request) -> dict[str, Any]:
    """Return what the file asked for, with defaults filled in; as it stands, where its module must not be imported."""
    return Task.of(base.says, request.names).asked if base.may_import else {**task.asked, **base.says}
