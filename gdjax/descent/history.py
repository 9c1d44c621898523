"""What a descent was like, step by step."""

import heapq
import itertools
import json
import math
import operator
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gdjax.descent.checkpoints import disk as files
from gdjax.value.printing import brief

CHUNK = 4_096
"""Rows of a history that are held as Python numbers at one time."""


class Columns(Mapping[str, np.ndarray]):
    """Arrays of one length by name, to which rows are added; where a name is new, or missing, its rows are NaN."""

    def __init__(self, arrays: Mapping[str, Any] | None = None):
        self.rows = 0
        """How many."""
        self._parts: dict[str, list[np.ndarray]] = {}
        self.add(arrays or {})

    def add(self, rows: Mapping[str, Any]) -> None:
        """Put rows at the end."""
        arrays = {name: np.asarray(x) for name, x in rows.items()}
        number = len(next(iter(arrays.values()), ()))
        for name in [name for name in arrays if name not in self._parts]:
            self._parts[name] = [np.full(self.rows, np.nan, np.float32)] if self.rows else []
        for name, parts in self._parts.items():
            parts.append(arrays.get(name, np.full(number, np.nan, np.float32)))
        self.rows += number

    def since(self, first: int) -> dict[str, np.ndarray]:
        """The rows from one on; what is before them is not touched."""
        return self.between(first, self.rows)

    def between(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return the rows from one up to another, without touching others."""
        return {name: _between(parts, first, last, self.rows) for name, parts in self._parts.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate([part for part in parts if part.size] or parts[:1])]
        return parts[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"{self.rows:,} rows of {', '.join(self._parts) or 'nothing'}"


def _between(parts: list[np.ndarray], first: int, last: int, rows: int) -> np.ndarray:
    found, ends = [], rows
    for part in reversed(parts):
        begins = ends - len(part)
        if begins < last and len(part):
            found.append(part[max(first - begins, 0) : last - begins])
        if begins <= first:
            break
        ends = begins
    return np.concatenate(found[::-1]) if found else np.empty(0)


class History(Columns):
    """Arrays by name, with a row for every step: `step`, `loss`, `grad_norm`, `learning_rate`, `throughput`, ...

    `loss` and the norms are those before the update of that step, `learning_rate` the one of that update, where the
    optimizer has one. `throughput` is in examples a second, NaN where a program was compiled. All but it is the same to
    the bit where a descent was resumed.
    """

    def __init__(self, steps: Mapping[str, Any] | None = None, evaluations: Mapping[str, Any] | None = None):
        super().__init__(steps)
        self.evaluations = Columns(evaluations)
        """The like with a row for every evaluation; `step` counts the steps taken before it."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything in one flat dict, as a checkpoint holds it."""
        steps = {f"steps/{name}": x for name, x in self.items()}
        return steps | {f"evaluations/{name}": x for name, x in self.evaluations.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any]) -> "History":
        """What `arrays` made."""
        return cls(under("steps/", arrays), under("evaluations/", arrays))

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
        """Read a file of such lines, one that a run still writes too; `null` is NaN.

        Args:
          path: of the file.
        """
        history = cls()
        with pathlib.Path(path).open(encoding="utf-8") as file:
            whole = (line for line in file if line.endswith("\n"))
            while lines := list(itertools.islice(whole, CHUNK)):
                rows = [json.loads(line) for line in lines]
                history.add(_columns([row for row in rows if "evaluation" not in row]))
                seen = [{"step": row["step"], **row["evaluation"]} for row in rows if "evaluation" in row]
                history.evaluations.add(_columns(seen))
        return history


class JsonLines:
    """A callback that writes the history of a descent to a file, line by line, while it goes on.

    Where a descent is resumed, the file is written anew up to there: it never holds a step twice, nor half a line.

    Args:
      path: a regular file, created if it is missing; nothing is written through a link.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"JsonLines: path must be the path of a file, got {brief(path)}.")
        if not os.fspath(path):
            raise ValueError("JsonLines: path must be the path of a file, got an empty one.")
        self._path = pathlib.Path(path)
        self._history: History | None = None
        self._written = 0, 0

    def __call__(self, progress: Any) -> None:
        """Write what is new."""
        history: History = progress.history
        begins = history is not self._history
        if begins:
            self._history, self._written = history, (0, 0)
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with files.opened(self._path, "w" if begins else "a") as file:
            file.writelines(f"{line}\n" for line in history.lines(*self._written))
        self._written = history.rows, history.evaluations.rows


def under(part: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a flat dict under a part of the names, by the rest of them."""
    return {name.removeprefix(part): x for name, x in arrays.items() if name.startswith(part)}


def _rows(columns: Columns, first: int) -> Iterator[dict[str, Any]]:
    for begin in range(first, columns.rows, CHUNK):
        part = columns.between(begin, min(begin + CHUNK, columns.rows))
        lists = [[_plain(value) for value in x.tolist()] for x in part.values()]
        yield from (dict(zip(part, row, strict=True)) for row in zip(*lists, strict=True))


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into columns, with NaN for numbers that are `null` or missing."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [math.nan if (x := row.get(name)) is None else x for row in rows] for name in names}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
