"""Descent: one step, and the loop that takes many."""

from gdjax.descent import stopping as stop
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.errors import CheckpointError
from gdjax.descent.fitting import fit
from gdjax.descent.history import History, JsonLines
from gdjax.descent.loop.evaluation import Evaluate
from gdjax.descent.loop.progress import Callback, Progress
from gdjax.descent.peers import PeerFailedError, PeerLostError
from gdjax.descent.result import Fit
from gdjax.descent.step.step import State, make_step
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
