"""What a run shall reach: `accuracy>0.97`."""

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from gdjax.cli.errors import InputError
from gdjax.hints import nearest

if TYPE_CHECKING:
    from gdjax.descent.stopping import Criterion


class Goal(NamedTuple):
    """A metric and its bound."""

    metric: str
    sign: str
    bound: float

    @classmethod
    def of(cls, text: str, who: str = "--until") -> "Goal":
        """Read it from its text."""
        found = re.fullmatch(r"\s*([\w./:-]+)\s*([<>])\s*(\S+)\s*", text)
        with_number = found and _number(found[3])
        if not found or with_number is None:
            raise InputError(f"{who} must be a metric, < or >, and a number, as in 'accuracy>0.97', got {text!r}.")
        return cls(found[1], found[2], with_number)

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"

    @property
    def mode(self) -> str:
        """Whether higher is better: `"max"` or `"min"`."""
        return "max" if self.sign == ">" else "min"

    def criterion(self) -> "Criterion":
        """Return the criterion that ends a descent which has reached it."""
        from gdjax.descent import stop

        bound = {"above" if self.sign == ">" else "below": self.bound}
        return stop.target(self.metric, **bound)

    def holds(self, value: float) -> bool:
        """Whether a value of the metric is beyond the bound."""
        return value > self.bound if self.sign == ">" else value < self.bound

    def require_known(self, metrics: Iterable[str], who: str = "--until") -> None:
        """Refuse a metric that nobody measures."""
        if self.metric not in (known := sorted(metrics)):
            hint = nearest(self.metric, known)
            raise InputError(f"{who} watches {self.metric!r}{hint}; there are {', '.join(known)}.")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number
