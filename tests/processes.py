"""Processes that tests start and signal."""

import sys

HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"


def hearing(*arguments):
    """The command of a Python that hears Ctrl-C, wherever it is started: in the background of a shell none does."""
    python = sys.executable
    return [python, "-c", HEARING, python, *map(str, arguments)]
