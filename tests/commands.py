"""Run commands in the process of a test, which avoids the startup time."""

import contextlib
import subprocess
import sys
import warnings

import pytest

from gdjax.cli import main


@contextlib.contextmanager
def commands(folder, capture):
    """Yield a function that runs a command in a folder and returns its status and output.

    Args:
      folder: the current directory of the command.
      capture: pytest's `capfd`.
    """
    before = {*sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "meta_path", [*sys.meta_path])
        patch.setattr(warnings, "showwarning", warnings.showwarning)

        def run(*arguments):
            patch.setattr(sys, "argv", ["gdjax", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
            return subprocess.CompletedProcess(sys.argv, ended.value.code, *capture.readouterr())

        yield run
    for name in {*sys.modules} - before:  # user modules that the command imported
        if str(folder) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
