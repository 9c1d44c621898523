"""Start or resume a run from a request, in one process or several, up to its exit status."""

import contextlib
import signal
from pathlib import Path

import typer
from jax.sharding import Mesh

from gdjax.cli import config, devices, run_folder
from gdjax.cli.config import ResolvedSettings, Settings
from gdjax.cli.distributed import JoinedProcesses, join_processes, silence_stdout
from gdjax.cli.errors import ExitStatus, InputError, print_message
from gdjax.cli.fitting import fit_run
from gdjax.cli.processes import ProcessGroup
from gdjax.cli.report import exit_status, report
from gdjax.cli.request import ConfigFile, Request
from gdjax.cli.run_folder import RunFolder
from gdjax.cli.run_spec import RunSpec
from gdjax.cli.signals import SignalHandler
from gdjax.descent import STOP_REASONS, CaughtSignal, Peers, attempt, catch_signals


def run(request: Request, contents: ConfigFile | None, group: ProcessGroup, signal_handler: SignalHandler) -> None:
    """Start or resume a run, and raise `typer.Exit` with its exit status.

    Args:
      request: the request of the command line.
      contents: the contents of its file, if it was read already.
      group: the processes of the run.
      signal_handler: the handler of signals.
    """
    with join_processes(group, signal_handler) as processes:
        session = _Session(request, processes, signal_handler)
        if request.resume:
            session.resume(contents)
        else:
            session.start(contents)


class _Session:
    """Run in all of its processes."""

    def __init__(self, request: Request, processes: JoinedProcesses, signal_handler: SignalHandler):
        self._request, self._processes, self._signal_handler = request, processes, signal_handler

    def start(self, contents: ConfigFile | None) -> None:
        """Start a run in a new folder."""
        request = self._request
        contents, settings, mesh, peers = self._set_up(contents)
        if request.file and peers.is_first:
            config.warn_if_versions_differ(request.file)

        def resolve() -> RunSpec:
            spec = RunSpec.resolve(settings, request.labels)
            if request.file and peers.is_first:
                for difference in config.differences(_stored(contents, spec, request), spec.settings).values():
                    print_message(f"not as in {request.file}: {difference}.")
            spec.check()
            return spec

        spec = peers.call_on_all(resolve)
        with run_folder.share(peers, run_folder.create(request.out, spec.problem.factory.__name__)) as folder:
            if peers.is_first:
                config.write(folder.config, spec.settings)
            raise typer.Exit(self._fit(spec, folder, mesh, peers))

    def resume(self, contents: ConfigFile | None) -> None:
        """Resume a run, or extend one that is complete."""
        folder = RunFolder(self._request.out or Path())
        contents, settings, mesh, peers = self._set_up(contents)
        if peers.is_first:
            config.warn_if_versions_differ(folder.config)
        with run_folder.share(peers, run_folder.open_existing(folder.path)) as folder:
            spec, has_changed = peers.call_on_all(lambda: self._resolve_resumed(folder, contents, settings))
            if peers.is_first and has_changed:
                config.write(folder.config, spec.settings)
            raise typer.Exit(self._fit(spec, folder, mesh, peers))

    def _set_up(self, contents: ConfigFile | None) -> tuple[ConfigFile, Settings, Mesh | None, Peers]:
        """Start JAX. Return the contents of the file, all settings, the mesh, and the processes of the mesh."""
        request, processes = self._request, self._processes

        def configure() -> tuple[ConfigFile, Settings]:
            loaded = request.read_config(may_ask=False) if contents is None else contents
            settings = config.override(loaded.settings, request.given)
            devices.configure_cpu_devices(settings.get("mesh"), processes.num_processes)
            return loaded, settings

        configured, failure = attempt(configure)  # the processes cannot communicate before JAX has started
        peers = Peers(None if processes.num_processes == 1 else devices.one_device_per_process())
        if not peers.is_single:
            silence_stdout(peers.is_first)
        peers.raise_if_any(failure)
        loaded, settings = configured
        difference = peers.difference(lambda: {**settings, "save_every": request.save_every, "resume": request.resume})

        def make_mesh() -> Mesh | None:
            if difference:
                raise InputError(f"every process must be asked for the same {difference}.")
            return devices.make_mesh(settings.get("mesh"))

        if (mesh := peers.call_on_all(make_mesh)) is None:
            return loaded, settings, None, peers
        settings["mesh"] = f"{mesh.axis_names[0]}={mesh.size}"
        return loaded, settings, mesh, Peers(mesh)

    def _resolve_resumed(self, folder: RunFolder, contents: ConfigFile, settings: Settings) -> tuple[RunSpec, bool]:
        """Return the specification of a resumed run, and True if it differs from the one in the folder."""
        spec = RunSpec.resolve(settings, self._request.labels)
        changed = config.differences(_stored(contents, spec, self._request), spec.settings)
        refused = [
            difference
            for name, difference in changed.items()
            if not config.can_change_on_resume(name, contents.settings, spec.settings)
        ]
        if refused:
            raise InputError(
                f"{str(folder.path)!r} holds a different run: {'; '.join(refused)}. Leave these out to resume it, or "
                f"start a new run with --config {folder.config} and another --out."
            )
        spec.check()
        if (last := folder.last_step) > spec.steps:
            raise InputError(
                f"{str(folder.path)!r} has {last:,} steps already, more than the {spec.steps:,} asked for."
            )
        return spec, bool(changed)

    def _fit(self, spec: RunSpec, folder: RunFolder, mesh: Mesh | None, peers: Peers) -> ExitStatus:
        """Fit, print the report, and return the exit status."""
        resume, handler, to_resume = self._request.resume, self._signal_handler, f"To resume: {folder.resume_command}"
        self._processes.monitor.send(str(folder.path))
        print(f"{spec.settings['problem']} in {folder.path}", flush=True)
        handler.outcome = f"{'earlier checkpoints are kept' if resume else 'no step was taken'}. {to_resume}"
        handler.descent_saves = not peers.is_single  # several processes end together, at one step
        try:
            catch = contextlib.nullcontext(CaughtSignal()) if peers.is_single else catch_signals(*STOP_REASONS)
            with catch as early_signal:
                fit = fit_run(
                    spec, folder, mesh, peers, early_signal, handler, resume=resume, save_every=self._request.save_every
                )
        except SystemExit as ended:  # `fit` has printed the reason
            if ended.code in (ExitStatus.TERMINATED, ExitStatus.HUNG_UP) and peers.is_first:
                print_message(f"to resume: {folder.resume_command}")
            raise
        finally:
            handler.descent_saves, handler.outcome = False, f"the run is in {folder.path}. {to_resume}"
            if not peers.is_single:  # a launcher may send a signal after the run is over
                for number in STOP_REASONS:
                    signal.signal(number, signal.SIG_IGN)
        if peers.is_first:
            report(spec, folder, fit)
        peers.barrier()  # else a process that is done would leave while the first one draws the curves
        if handler.pending is None:
            return exit_status(spec, fit)
        print_message(f"interrupted; {handler.outcome}")
        return ExitStatus(128 + handler.pending)


def _stored(contents: ConfigFile, spec: RunSpec, request: Request) -> ResolvedSettings:
    """Return the settings in the file, with defaults filled in; as they stand if its module must not be imported."""
    if contents.import_allowed:
        return RunSpec.resolve(contents.settings, request.labels).settings
    return {**spec.settings, **contents.settings}
