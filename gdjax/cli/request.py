"""Requests for a run, from the command line and from the file that it names; read without JAX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gdjax.cli import config, run_folder
from gdjax.cli.arguments import axis
from gdjax.cli.errors import InputError
from gdjax.cli.metric_target import Goal
from gdjax.cli.user_modules import may_import


class Base(NamedTuple):
    """The contents of a `config.toml`."""

    says: dict[str, Any]
    may_import: bool = True
    """True if the module of its problem may be imported."""


class Request(NamedTuple):
    """A request on the command line."""

    given: dict[str, Any]
    """Its values, by the names of `config.toml`."""
    called: Mapping[str, str]
    """The flags that they come from, by the same names."""
    file: Path | None
    """The `config.toml` that says the rest, if there is one."""
    out: Path | None
    """The folder of the run; `None` for a new one."""
    resume: bool
    trusted: bool
    save_every: int | None

    def base(self, alone: bool) -> Base:
        """Read what the file says.

        Args:
          alone: whether this is the only process of the run.

        Raises:
          InputError: if it cannot be read, asks for something impossible, or names a module that is not trusted.
        """
        if self.resume and self.out is not None:
            run_folder.require_run(self.out)
        if self.file is None:
            base = Base({})
        else:
            says = config.read(self.file)
            base = Base(says, may_import(self.file, says, self.given, trusted=self.trusted, alone=alone))
        asked, names = config.over(base.says, self.given), self.names
        if {"epochs", "steps"} <= asked.keys():
            raise InputError("--epochs and --steps exclude each other: give one of them.")
        if "until" in asked:
            Goal.of(asked["until"], names["until"])
        if "mesh" in asked:
            axis(asked["mesh"])
        return base

    @property
    def names(self) -> dict[str, str]:
        """Return the name of each text in errors: its flag, or the file and the name in it."""
        of_file = {name: f"{str(self.file)!r}: {name}" for name in config.KINDS} if self.file else {}
        return {"problem": "PROBLEM", "optimizer": "--optimizer", "until": "--until", **of_file, **self.called}


def resumed(out: Path | None, file: Path | None) -> Path:
    """Return the folder of the run to resume."""
    if out is None and file is None:
        raise InputError("--resume needs the folder of the run: --out DIR.")
    if out is not None and file is not None and out.resolve() != file.resolve().parent:
        raise InputError(f"--resume goes on in one folder, got --out {out} and --config {file}: give one of them.")
    return out if out is not None else file.parent  # pyright: ignore[reportOptionalMemberAccess]
