"""The curves of a descent (needs matplotlib)."""

from typing import Any

import numpy as np

from gdjax.descent.history import Columns, History

POINTS = 2_000
"""Points of a curve at the most: longer ones are drawn by the mean, and the range, of equal parts."""


def curves(history: History, axes: Any = None) -> Any:
    """Draw the loss over the steps, on a logarithmic axis where it can be, and below it what was evaluated."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot needs matplotlib: pip install 'gdjax[lab]'") from error
    evaluated = [name for name in history.evaluations if name != "step"]
    if axes is None:
        figure = Figure(figsize=(7, 3 + 2 * bool(evaluated)), layout="constrained")
        axes = figure.subplots(1 + bool(evaluated), sharex=True, squeeze=False)[:, 0]
    axes = np.atleast_1d(axes)
    _loss(axes[0], history)
    if evaluated and len(axes) > 1:
        _evaluations(axes[1], history.evaluations, evaluated)
    axes[-1].set_xlabel("steps")
    return axes[0].figure


def _loss(axes: Any, history: History) -> None:
    if not history.rows:
        axes.set_ylabel("loss")
        return
    steps, loss = history["step"], history["loss"].astype(float)
    parts = min(len(loss), POINTS)
    edges = np.linspace(0, len(loss), parts + 1).astype(int)[:-1]
    count = np.diff([*edges, len(loss)])
    mean = np.add.reduceat(loss, edges) / count
    if parts < len(loss):
        axes.fill_between(
            steps[edges], np.minimum.reduceat(loss, edges), np.maximum.reduceat(loss, edges), alpha=0.25, linewidth=0
        )
    axes.plot(steps[edges], mean, linewidth=1)
    axes.set_ylabel("loss")
    _scale(axes, loss, spread=10)
    axes.grid(alpha=0.3)


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
    """Make an axis logarithmic where its values can be shown so and spread by more than a factor."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > spread * finite.min():
        axes.set_yscale("log")
