"""Report a lost process of a run: JAX ends the remaining processes without a message.

The script runs by its path as a separate process, needs the standard library only, and outlives the process that it
monitors. It reads lines from its standard input: the folder of the run once there is one, and `done` at a normal exit.
"""

import contextlib
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def lost_message(lines: Sequence[str]) -> str | None:
    """Return the message for a process that exited after sending these lines; `None` if it sent `done`."""
    if "done" in lines:
        return None
    if not lines:
        return "a process of this run was lost before the run started: start all processes again."
    folder = lines[-1]
    names = [path.name for path in (Path(folder) / "checkpoints").glob("*")]
    steps = [int(name) for name in names if re.fullmatch("[0-9]+", name)]
    saved = f"the last checkpoint is at step {max(steps):,}" if steps else "there is no checkpoint"
    return f"a process of this run was lost; {saved}. To resume, in all processes: gdjax train --resume --out {folder}"


def monitor(lines: Iterable[str]) -> None:
    """Wait until the monitored process exits, and report it if it is lost."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if message := lost_message([line.rstrip("\n") for line in lines]):
        with contextlib.suppress(OSError):
            print(f"gdjax: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    monitor(sys.stdin)
