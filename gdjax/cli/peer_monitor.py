"""What is said where a run of several processes loses one: JAX ends the others without asking them.

It is run by its path as a process of its own, which needs the standard library alone and outlives what it watches. On
its standard input it is told the folder of the run as soon as there is one, and `done` where there is nothing to say.
"""

import contextlib
import re
import signal
import sys
from collections.abc import Iterable
from pathlib import Path


def words(told: list[str]) -> str | None:
    """What there is to say of a process that was told so much and is gone; `None` if it was done."""
    if "done" in told:
        return None
    if not told:
        return "a process of this run was lost before it began: start all of them again."
    folder = told[-1]
    names = [path.name for path in (Path(folder) / "checkpoints").glob("*")]
    saved = [int(name) for name in names if re.fullmatch("[0-9]+", name)]
    has = f"its last checkpoint is of step {max(saved):,}" if saved else "nothing is saved"
    return f"a process of this run was lost; {has}: gdjax train --resume --out {folder}, in all processes, goes on."


def watch(lines: Iterable[str]) -> None:
    """Wait until the process is gone, however it goes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sentence := words([line.rstrip("\n") for line in lines]):
        with contextlib.suppress(OSError):
            print(f"gdjax: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    watch(sys.stdin)
