"""Descent: one step, and the loop that takes many."""

from gdjax.descent import stopping as stop
from gdjax.descent.checkpoints.disk import short_cause, write_atomically
from gdjax.descent.checkpoints.lock import lock_folder
from gdjax.descent.checkpoints.options import Checkpoints
from gdjax.descent.checkpoints.paths import checkpoint_steps
from gdjax.descent.data.placement import Placement
from gdjax.descent.errors import CheckpointError, PeerFailedError, PeerLostError
from gdjax.descent.fitting import fit
from gdjax.descent.history import History, JsonLines
from gdjax.descent.loop.evaluation import Evaluate
from gdjax.descent.loop.progress import Callback, Progress
from gdjax.descent.loop.signals import STOP_REASONS, CaughtSignal, catch_signals
from gdjax.descent.peers import Peers, attempt, is_peer_loss
from gdjax.descent.result import Fit
from gdjax.descent.step.step import State, make_step
from gdjax.descent.stopping import Criterion, Stopped

__all__ = [
    "STOP_REASONS",
    "Callback",
    "CaughtSignal",
    "CheckpointError",
    "Checkpoints",
    "Criterion",
    "Evaluate",
    "Fit",
    "History",
    "JsonLines",
    "PeerFailedError",
    "PeerLostError",
    "Peers",
    "Placement",
    "Progress",
    "State",
    "Stopped",
    "attempt",
    "catch_signals",
    "checkpoint_steps",
    "fit",
    "is_peer_loss",
    "lock_folder",
    "make_step",
    "short_cause",
    "stop",
    "write_atomically",
]
