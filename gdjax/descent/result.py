"""What a descent came to."""

import dataclasses
import html
import io
from typing import Any

from gdjax.descent.history import History
from gdjax.descent.step import State
from gdjax.descent.stopping import Stopped


@dataclasses.dataclass(frozen=True, repr=False)
class Fit:
    """What `fit` returns; prints why it ended and where, in a notebook with its curves."""

    params: Any
    """To evaluate and to keep: those of `eval_params`."""
    state: State
    """To go on from: `fit(loss, fit.state, ...)`. Its parameters are those that are descended on."""
    history: History
    stopped: Stopped
    because: str
    """The same in words."""
    seconds: float
    """Since the beginning, compiling too, and before a resumption."""
    compiling: float = 0.0
    """Seconds of these until programs were compiled: the first evaluation, and the first dispatch of each program."""

    def __repr__(self) -> str:
        step = int(self.state.count)
        steps = f"{step:,} step{'s' * (step != 1)}"
        return f"Fit: {self.stopped} ({self.because}) after {steps}, {self.seconds:.3g} s{self._reached()}"

    def _reached(self) -> str:
        last = {"loss": self.history["loss"][-1]} if self.history.rows else {}
        evaluations = self.history.evaluations
        last |= {name: x[-1] for name, x in evaluations.items() if name != "step"} if evaluations.rows else {}
        return "".join(f"; {name} {float(value):.4g}" for name, value in last.items())

    def plot(self, axes: Any = None) -> Any:
        """Draw the loss, and what was evaluated, over the steps (needs matplotlib).

        Args:
          axes: two of matplotlib's to draw on, one above the other; by default those of a new figure.

        Returns:
          The figure.
        """
        from gdjax.descent.plotting import curves

        return curves(self.history, axes)

    def _repr_html_(self) -> str:
        words = f"<p>{html.escape(repr(self))}</p>"
        try:
            figure = self.plot()
        except ModuleNotFoundError:
            return words
        image = io.StringIO()
        figure.savefig(image, format="svg")
        return words + image.getvalue()[image.getvalue().index("<svg") :]
