"""What a descent was like, step by step."""

import json
import math
import operator
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class Columns(Mapping[str, np.ndarray]):
    """Arrays of one length by name, to which rows are added."""

    def __init__(self, arrays: Mapping[str, Any] | None = None):
        self._parts: dict[str, list[np.ndarray]] = {name: [np.asarray(x)] for name, x in (arrays or {}).items()}

    def add(self, rows: Mapping[str, Any]) -> None:
        """Put rows at the end."""
        for name, rows_of in rows.items():
            self._parts.setdefault(name, []).append(np.asarray(rows_of))

    @property
    def rows(self) -> int:
        """How many."""
        return len(next(iter(self.values()))) if self._parts else 0

    def __getitem__(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"{self.rows:,} rows of {', '.join(self._parts) or 'nothing'}"


class History(Columns):
    """Arrays by name, with a row for every step: `step`, `loss`, `grad_norm`, `learning_rate`, `throughput`, ...

    `loss` and the norms are those before the update of that step. `throughput` is in examples a second, NaN while the
    program was compiled. All but it is the same to the bit where a descent was resumed.
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

        def under(part: str) -> dict[str, Any]:
            return {name.removeprefix(part): x for name, x in arrays.items() if name.startswith(part)}

        return cls(under("steps/"), under("evaluations/"))

    def lines(self, first_step: int = 0, first_evaluation: int = 0) -> Iterator[str]:
        """JSON, a line for every step and every evaluation, in their order; what is not finite is `null`."""
        steps = [(row["step"], 1, row) for row in _rows(self, first_step)]
        evaluations = [(row.pop("step"), 0, row) for row in _rows(self.evaluations, first_evaluation)]
        for step, is_step, row in sorted([*steps, *evaluations], key=operator.itemgetter(0, 1)):
            yield json.dumps(row if is_step else {"step": step, "evaluation": row})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "History":
        """Read a file of such lines, one that a run still writes too; `null` is NaN.

        Args:
          path: of the file.
        """
        steps: dict[str, list[Any]] = {}
        evaluations: dict[str, list[Any]] = {}
        for line in pathlib.Path(path).read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                into = evaluations if "evaluation" in row else steps
                for name, value in {"step": row["step"], **row.get("evaluation", row)}.items():
                    into.setdefault(name, []).append(math.nan if value is None else value)
        return cls(steps, evaluations)


class JsonLines:
    """A callback that writes the history of a descent to a file, line by line, while it goes on.

    Where a descent is resumed, the file is written anew up to there: it never holds a step twice, nor half a line.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = pathlib.Path(path)
        self._written: tuple[int, int] | None = None

    def __call__(self, progress: Any) -> None:
        """Write what is new."""
        history: History = progress.history
        lines = "".join(f"{line}\n" for line in history.lines(*(self._written or (0, 0))))
        if self._written is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(lines)
        elif lines:
            with self._path.open("a") as file:
                file.write(lines)
        self._written = history.rows, history.evaluations.rows


def _rows(columns: Columns, first: int) -> list[dict[str, Any]]:
    lists = [[_plain(value) for value in x[first:].tolist()] for x in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
