"""Options of checkpoints: the folder, the intervals, and which are kept."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from gdjax.descent.checkpoints.paths import require_local


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Options for saving a descent: the folder, the intervals, and which checkpoints are kept.

    Args:
      folder: the folder of this descent, made if it is missing.
      every: steps from one checkpoint to the next, at least 1; by default the clock alone decides.
      seconds: time from one to the next, in (0, inf].
      keep_last: number of newest checkpoints that are kept, at least 1.
      keep_best: number of best checkpoints kept beside them, at least 0.
      best: the metric whose smallest value is best, or `(metric, "max")`. A checkpoint without it, or with a value
        that is not finite, is never among the best.

    >>> Checkpoints("runs/digits", every=1_000, best=("accuracy", "max")).best
    ('accuracy', 'max')
    """

    folder: str | os.PathLike[str]
    _: dataclasses.KW_ONLY
    every: int | None = None
    seconds: float = 60.0
    keep_last: int = 2
    keep_best: int = 1
    best: Any = "loss"

    def __post_init__(self):
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"Checkpoints: folder must be a path, got {self.folder!r}.")
        if not os.fspath(self.folder):
            raise ValueError(
                "Checkpoints: folder must be a path, got an empty one. Write '.' for the current directory."
            )
        require_local(self.folder)
        for name, least in (("every", 1), ("keep_last", 1), ("keep_best", 0)):
            number = getattr(self, name)
            if isinstance(number, bool) or not (isinstance(number, int) or (name == "every" and number is None)):
                raise TypeError(f"Checkpoints: {name} must be an integer, got {number!r}.")
            if number is not None and number < least:
                raise ValueError(f"Checkpoints: {name} must be at least {least}, got {number}.")
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, (int, float)) or not self.seconds > 0:
            raise ValueError(f"Checkpoints: seconds must lie in (0, inf], got {self.seconds!r}.")
        best = (self.best, "min") if isinstance(self.best, str) else self.best
        if not (type(best) is tuple and len(best) == 2 and isinstance(best[0], str) and best[1] in ("min", "max")):
            raise ValueError(f'Checkpoints: best must be the name of a metric, or (name, "max"), got {self.best!r}.')
        if not self.keep_best and best != ("loss", "min"):
            raise ValueError(f"Checkpoints: best has no effect with keep_best=0, got {self.best!r}. Leave one out.")
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "best", best)

    @classmethod
    def of(cls, checkpoint: "Checkpoints | str | os.PathLike[str] | None") -> "Checkpoints | None":
        """Return the options for the `checkpoint` of `fit`: a folder alone gets the defaults."""
        return checkpoint if checkpoint is None or isinstance(checkpoint, cls) else cls(checkpoint)  # pyright: ignore
