"""Descent: one step, and the loop that takes many."""

from gdjax.descent import stopping as stop
from gdjax.descent.agreement import PeerFailedError, PeerLostError
from gdjax.descent.checkpointing import Checkpoints
from gdjax.descent.evaluation import Evaluate
from gdjax.descent.faults import CheckpointError
from gdjax.descent.fit import fit
from gdjax.descent.history import History, JsonLines
from gdjax.descent.progress import Callback, Progress
from gdjax.descent.result import Fit
from gdjax.descent.step import State, make_step
from gdjax.descent.stopping import Criterion, Stopped

__all__ = [
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "Criterion",
    "Evaluate",
    "Fit",
    "History",
    "JsonLines",
    "PeerFailedError",
    "PeerLostError",
    "Progress",
    "State",
    "Stopped",
    "fit",
    "make_step",
    "stop",
]
