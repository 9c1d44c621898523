"""The data that scikit-learn brings along, and what becomes of any data: every fifth row is held out."""

import importlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Inputs and outputs in two parts, which nobody can write to."""

    train: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]


def bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs of `sklearn.datasets.load_<name>`."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scikit-learn brings along what {name} needs: pip install 'gdjax[train]'", name=error.name
        ) from error
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def standardised(rows: np.ndarray) -> np.ndarray:
    """Rows less the mean of those for training, over their deviation, column by column."""
    for_training = rows[~_fifths(rows)]
    return (rows - for_training.mean(0)) / for_training.std(0)


def split(*columns: np.ndarray) -> Split:
    """Columns of equally many rows, parted."""
    return Split(*(tuple(_frozen(x[part]) for x in columns) for part in (~_fifths(columns[0]), _fifths(columns[0]))))


def _fifths(rows: np.ndarray) -> np.ndarray:
    return np.arange(len(rows)) % 5 == 0


def _frozen(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x
