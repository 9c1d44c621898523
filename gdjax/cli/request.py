"""Combine the settings of the command line with those of a `config.toml`, without JAX."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gdjax.cli import config
from gdjax.cli.arguments import parse_mesh
from gdjax.cli.config import Settings
from gdjax.cli.errors import InputError
from gdjax.cli.metric_target import MetricTarget
from gdjax.cli.run_folder import require_run
from gdjax.cli.user_modules import is_import_allowed


class ConfigFile(NamedTuple):
    """Contents of a `config.toml`."""

    settings: Settings
    import_allowed: bool = True
    """True if the module of its problem may be imported."""


class Request(NamedTuple):
    """Request for a run, as the command line gives it."""

    given: Settings
    """Settings on the command line."""
    flags: Mapping[str, str]
    """Flag of each of these settings."""
    file: Path | None
    """The `config.toml` with the other settings, if there is one."""
    out: Path | None
    """Folder of the run; `None` for a new one."""
    resume: bool
    trusted: bool
    save_every: int | None

    def read_config(self, may_ask: bool) -> ConfigFile:
        """Read and check the file.

        Args:
          may_ask: True if this is the only process of the run, so that its terminal can be asked.

        Raises:
          InputError: if the file cannot be read, holds wrong settings, or names a module that is not trusted.
        """
        if self.resume and self.out is not None:
            require_run(self.out)
        if self.file is None:
            contents = ConfigFile({})
        else:
            settings = config.read(self.file)
            allowed = is_import_allowed(self.file, settings, self.given, trusted=self.trusted, may_ask=may_ask)
            contents = ConfigFile(settings, allowed)
        settings = config.override(contents.settings, self.given)
        if {"epochs", "steps"} <= settings.keys():
            raise InputError("--epochs and --steps exclude each other: give one of them.")
        if "until" in settings:
            MetricTarget.parse(settings["until"], self.labels["until"])
        if "mesh" in settings:
            parse_mesh(settings["mesh"])
        return contents

    @property
    def labels(self) -> dict[str, str]:
        """Return the label of each setting in errors: its flag, or the file and the name in it."""
        in_file = {name: f"{str(self.file)!r}: {name}" for name in config.TYPES} if self.file else {}
        return {"problem": "PROBLEM", "optimizer": "--optimizer", "until": "--until", **in_file, **self.flags}


def folder_to_resume(out: Path | None, file: Path | None) -> Path:
    """Return the folder of the run to resume, from `--out` or `--config`."""
    if out is not None and file is not None and out.resolve() != file.resolve().parent:
        raise InputError(f"--resume takes one folder, got --out {out} and --config {file}: give one of them.")
    if out is not None:
        return out
    if file is None:
        raise InputError("--resume needs the folder of the run: --out DIR.")
    return file.parent
