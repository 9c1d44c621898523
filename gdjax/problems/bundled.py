"""Datasets bundled with scikit-learn, standardization, and the split that holds out every fifth row."""

import importlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Training and held-out columns, as read-only arrays."""

    train: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]


def load_sklearn(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs and outputs of `sklearn.datasets.load_<name>`."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The dataset {name!r} needs scikit-learn: pip install 'gdjax[train]'", name=error.name
        ) from error
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def standardize(rows: np.ndarray) -> np.ndarray:
    """Scale each column to mean 0 and variance 1 over the training rows."""
    train = rows[~_is_held_out(rows)]
    return (rows - train.mean(0)) / train.std(0)


def split_rows(*columns: np.ndarray) -> Split:
    """Split columns with the same number of rows into training and held-out rows."""
    held_out = _is_held_out(columns[0])
    return Split(*(tuple(_make_read_only(x[rows]) for x in columns) for rows in (~held_out, held_out)))


def _is_held_out(rows: np.ndarray) -> np.ndarray:
    return np.arange(len(rows)) % 5 == 0


def _make_read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x
