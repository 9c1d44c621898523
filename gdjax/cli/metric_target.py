"""Bound on a metric, such as `accuracy>0.97`: the value of `--until`, and the target of a problem."""

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from gdjax.cli.errors import InputError
from gdjax.hints import nearest

if TYPE_CHECKING:
    from gdjax.descent import Criterion


class MetricTarget(NamedTuple):
    """Bound that a metric shall pass."""

    metric: str
    sign: str
    """`>` or `<`."""
    bound: float

    @classmethod
    def parse(cls, text: str, who: str = "--until") -> "MetricTarget":
        """Parse a target.

        Args:
          text: as in `accuracy>0.97`.
          who: the name of the text in errors.
        """
        match = re.fullmatch(r"\s*([\w./:-]+)\s*([<>])\s*(\S+)\s*", text)
        bound = match and _parse_number(match[3])
        if not match or bound is None:
            raise InputError(f"{who} must be a metric, < or >, and a number, as in 'accuracy>0.97', got {text!r}.")
        return cls(match[1], match[2], bound)

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"

    @property
    def mode(self) -> str:
        """Return `"max"` if higher values are better, else `"min"`."""
        return "max" if self.sign == ">" else "min"

    def criterion(self) -> "Criterion":
        """Return the criterion that ends a descent at this target."""
        from gdjax.descent import stop

        bound = {"above" if self.sign == ">" else "below": self.bound}
        return stop.target(self.metric, **bound)

    def is_met_by(self, value: float) -> bool:
        """Return True if a value of the metric is beyond the bound."""
        return value > self.bound if self.sign == ">" else value < self.bound

    def require_known(self, metrics: Iterable[str], who: str = "--until") -> None:
        """Refuse a metric that the run does not report."""
        if self.metric not in (known := sorted(metrics)):
            hint = nearest(self.metric, known)
            raise InputError(f"{who} watches {self.metric!r}{hint}; there are {', '.join(known)}.")


def _parse_number(text: str) -> float | None:
    """Parse a number; `None` for NaN, or text that is no number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number
