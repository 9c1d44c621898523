"""The result of a descent, and its curves."""

import dataclasses
import html
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gdjax.descent.history import Columns, History
from gdjax.descent.step.step import State
from gdjax.descent.stopping import Stopped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 2_000
"""Most points of a curve; a longer one is drawn by the mean and the range of equal chunks."""
RANGE = 1e-18
"""Smallest value that a logarithmic axis with zeros separates from 0, as a share of the largest."""
TICKS = 7
"""Most decades that such an axis labels."""


@dataclasses.dataclass(frozen=True, repr=False)
class Fit:
    """The result of `fit`. It prints why and where the descent ended, in a notebook with its curves."""

    params: Any
    """Parameters to evaluate and to keep, by `eval_params`."""
    state: State
    """State to continue from: `fit(loss, fit.state, ...)`. Its parameters are those that the descent updates."""
    history: History
    stopped: Stopped
    because: str
    """The reason in words."""
    seconds: float
    """Time since the beginning, with compilation, and before a resumption too."""
    compiling: float = 0.0
    """Seconds spent until programs were compiled: the first evaluation, and the first dispatch of each program."""

    def __repr__(self) -> str:
        step = int(self.state.count)
        steps = f"{step:,} step{'s' * (step != 1)}"
        return f"Fit: {self.stopped} ({self.because}) after {steps}, {self.seconds:.3g} s{self._reached()}"

    def _reached(self) -> str:
        last = {"loss": self.history["loss"][-1]} if self.history.rows else {}
        evaluations = self.history.evaluations
        last |= {name: x[-1] for name, x in evaluations.items() if name != "step"} if evaluations.rows else {}
        return "".join(f"; {name} {float(value):.4g}" for name, value in last.items())

    def plot(self, axes: "Axes | Sequence[Axes] | None" = None) -> "Figure":
        """Draw the loss and the evaluations over the steps (needs matplotlib).

        Args:
          axes: two axes of matplotlib, one above the other; by default those of a new figure.

        Returns:
          The figure.
        """
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


def curves(history: History, axes: "Axes | Sequence[Axes] | None" = None) -> "Figure":
    """Draw the loss over the steps, on a logarithmic axis if possible, and below it the evaluations."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot needs matplotlib: pip install 'gdjax[lab]'") from error
    evaluated = [name for name in history.evaluations if name != "step"]
    if axes is None:
        figure = Figure(figsize=(7, 3 + 2 * bool(evaluated)), layout="constrained")
        panels: Any = figure.subplots(1 + bool(evaluated), sharex=True, squeeze=False)[:, 0]
    else:
        panels = np.atleast_1d(axes)  # pyright: ignore
    _loss(panels[0], history)
    if evaluated and len(panels) > 1:
        _evaluations(panels[1], history.evaluations, evaluated)
    panels[-1].set_xlabel("steps")
    return panels[0].figure


def _loss(axes: Any, history: History) -> None:
    if not history.rows:
        axes.set_ylabel("loss")
        return
    steps, loss = history["step"], history["loss"].astype(float)
    edges = np.linspace(0, len(loss), min(len(loss), POINTS) + 1).astype(int)[:-1]
    mean, least, most = _chunk_ranges(np.where(np.isfinite(loss), loss, np.nan), edges)
    if len(edges) < len(loss):
        axes.fill_between(steps[edges], least, most, alpha=0.25, linewidth=0)
    axes.plot(steps[edges], mean, linewidth=1)
    axes.set_ylabel("loss")
    _scale(axes, loss, spread=10)
    axes.grid(alpha=0.3)


def _chunk_ranges(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, minimum and maximum finite value of each chunk; chunks begin at the edges."""
    count = np.add.reduceat(np.isfinite(values).astype(int), edges)
    total = np.add.reduceat(np.nan_to_num(values), edges)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean, np.fmin.reduceat(values, edges), np.fmax.reduceat(values, edges)


def _evaluations(axes: Any, evaluations: Columns, names: list[str]) -> None:
    for name in names:
        axes.plot(evaluations["step"], evaluations[name], marker=".", markersize=4, linewidth=1, label=name)
    _scale(axes, np.concatenate([evaluations[name] for name in names]), spread=100)
    if len(names) == 1:
        axes.set_ylabel(names[0])
    else:
        axes.set_ylabel("evaluated")
        axes.legend(loc="best", frameon=False)
    axes.grid(alpha=0.3)


def _scale(axes: Any, values: np.ndarray, spread: float) -> None:
    """Make an axis logarithmic if its values are positive and spread by more than a factor.

    Zeros lie on a linear stretch below the smallest positive value, which the axis labels.
    """
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if not positive.size or finite.min() < 0 or positive.max() <= spread * positive.min():
        return
    if finite.min() > 0:
        axes.set_yscale("log")
        return
    first = math.floor(math.log10(max(positive.min(), positive.max() * RANGE)))
    decades = math.floor(math.log10(positive.max())) - first
    least = 10.0**first
    axes.set_yscale("symlog", linthresh=least, linscale=max(0.5, decades / 7))
    axes.set_yticks([0.0, *(10.0**power for power in range(first, first + decades + 1, 1 + decades // TICKS))])
    axes.set_ylim(-least / 6, positive.max() * 2)
    axes.axhline(least, color="gray", linewidth=0.5, linestyle=":")
    at: Any = {"xycoords": ("axes fraction", "data"), "xytext": (3, -2), "textcoords": "offset points", "va": "top"}
    axes.annotate(f"linear below {least:.0e}", (0.0, least), fontsize="x-small", color="gray", **at)
