"""Descent: one step, and the loop that takes many."""

from gdjax.descent import stopping as stop
from gdjax.descent.checkpointing import CheckpointError as CheckpointError
from gdjax.descent.checkpointing import Checkpoints as Checkpoints
from gdjax.descent.evaluation import Evaluate as Evaluate
from gdjax.descent.fit import fit as fit
from gdjax.descent.history import History as History
from gdjax.descent.history import JsonLines as JsonLines
from gdjax.descent.progress import Progress as Progress
from gdjax.descent.result import Fit as Fit
from gdjax.descent.step import State as State
from gdjax.descent.step import make_step as make_step
from gdjax.descent.stopping import Stopped as Stopped

__all__ = ["stop"]
