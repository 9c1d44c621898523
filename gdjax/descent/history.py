"""The history of a descent, step by step."""

import heapq
import itertools
import json
import math
import operator
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from gdjax.descent.checkpoints import disk
from gdjax.value.printing import brief

CHUNK = 4_096
"""Rows of a history that are Python numbers at one time."""


class Columns(Mapping[str, np.ndarray]):
    """Arrays of one length by name, to which rows are added; missing values are NaN."""

    def __init__(self, arrays: Mapping[str, Any] | None = None):
        self.rows = 0
        """Number of rows."""
        self._chunks: dict[str, list[np.ndarray]] = {}
        self.add(arrays or {})

    def add(self, rows: Mapping[str, Any]) -> None:
        """Append rows."""
        arrays = {name: np.asarray(x) for name, x in rows.items()}
        number = len(next(iter(arrays.values()), ()))
        for name in [name for name in arrays if name not in self._chunks]:
            self._chunks[name] = [np.full(self.rows, np.nan, np.float32)] if self.rows else []
        for name, chunks in self._chunks.items():
            chunks.append(arrays.get(name, np.full(number, np.nan, np.float32)))
        self.rows += number

    def since(self, first: int) -> dict[str, np.ndarray]:
        """Return the rows from one on, without touching those before."""
        return self.between(first, self.rows)

    def between(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return the rows from one up to another, without touching others."""
        return {name: _between(chunks, first, last, self.rows) for name, chunks in self._chunks.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        chunks = self._chunks[name]
        if len(chunks) > 1:
            chunks[:] = [np.concatenate([chunk for chunk in chunks if chunk.size] or chunks[:1])]
        return chunks[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._chunks)

    def __len__(self) -> int:
        return len(self._chunks)

    def __repr__(self) -> str:
        return f"{self.rows:,} rows of {', '.join(self._chunks) or 'nothing'}"


def _between(chunks: list[np.ndarray], first: int, last: int, rows: int) -> np.ndarray:
    """Return the values from one row up to another, searched from the end."""
    taken, end = [], rows
    for chunk in reversed(chunks):
        begin = end - len(chunk)
        if begin < last and len(chunk):
            taken.append(chunk[max(first - begin, 0) : last - begin])
        if begin <= first:
            break
        end = begin
    return np.concatenate(taken[::-1]) if taken else np.empty(0)


class History(Columns):
    """Arrays by name, with a row for every step: `step`, `loss`, `grad_norm`, `learning_rate`, `throughput`, ...

    `loss` and the norms are those before the update of that step, and `learning_rate` is the one of that update, if the
    optimizer has one. `throughput` is in examples per second, NaN where a program was compiled. A resumed descent has
    the same history to the bit, apart from `throughput`.
    """

    def __init__(self, steps: Mapping[str, Any] | None = None, evaluations: Mapping[str, Any] | None = None):
        super().__init__(steps)
        self.evaluations = Columns(evaluations)
        """Arrays by name, with a row for every evaluation; `step` counts the steps taken before it."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything in one flat dict, as a checkpoint stores it."""
        steps = {f"steps/{name}": x for name, x in self.items()}
        return steps | {f"evaluations/{name}": x for name, x in self.evaluations.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any]) -> "History":
        """Return the history with these `arrays`."""
        return cls(select_prefix("steps/", arrays), select_prefix("evaluations/", arrays))

    def lines(self, first_step: int = 0, first_evaluation: int = 0) -> Iterator[str]:
        """Yield JSON, a line for every step and every evaluation, in order; numbers that are not finite are `null`.

        Memory: a few thousand rows at a time, however many there are.
        """
        steps = ((row["step"], 1, row) for row in _rows(self, first_step))
        evaluations = ((row.pop("step"), 0, row) for row in _rows(self.evaluations, first_evaluation))
        for step, is_step, row in heapq.merge(steps, evaluations, key=operator.itemgetter(0, 1)):
            yield json.dumps(row if is_step else {"step": step, "evaluation": row})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "History":
        """Read a file of such lines; a run may still write to it. `null` is read as NaN.

        Args:
          path: of the file.
        """
        history = cls()
        with pathlib.Path(path).open(encoding="utf-8") as file:
            complete = (line for line in file if line.endswith("\n"))
            while lines := list(itertools.islice(complete, CHUNK)):
                rows = [json.loads(line) for line in lines]
                history.add(_columns([row for row in rows if "evaluation" not in row]))
                evaluations = [{"step": row["step"], **row["evaluation"]} for row in rows if "evaluation" in row]
                history.evaluations.add(_columns(evaluations))
        return history


class HasHistory(Protocol):
    """Progress with a history."""

    @property
    def history(self) -> History:
        """The history so far."""
        ...


class JsonLines:
    """A callback that writes the history of a descent to a file, line by line, while it runs.

    On resuming, it rewrites the file up to the checkpoint: the file never holds a step twice, nor half a line.

    Args:
      path: a regular file, created if it is missing; a link is an error.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"JsonLines: path must be the path of a file, got {brief(path)}.")
        if not os.fspath(path):
            raise ValueError("JsonLines: path must be the path of a file, got an empty one.")
        self._path = pathlib.Path(path)
        self._history: History | None = None
        self._written = 0, 0

    def __call__(self, progress: HasHistory) -> None:
        """Write the new rows."""
        history: History = progress.history
        is_new = history is not self._history
        if is_new:
            self._history, self._written = history, (0, 0)
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with disk.open_regular(self._path, "w" if is_new else "a") as file:
            file.writelines(f"{line}\n" for line in history.lines(*self._written))
        self._written = history.rows, history.evaluations.rows


def select_prefix(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}


def _rows(columns: Columns, first: int) -> Iterator[dict[str, Any]]:
    """Yield rows from one on, as JSON."""
    for begin in range(first, columns.rows, CHUNK):
        part = columns.between(begin, min(begin + CHUNK, columns.rows))
        lists = [[_to_json(value) for value in x.tolist()] for x in part.values()]
        yield from (dict(zip(part, row, strict=True)) for row in zip(*lists, strict=True))


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into columns, with NaN for numbers that are `null` or missing."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [math.nan if (x := row.get(name)) is None else x for row in rows] for name in names}


def _to_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
