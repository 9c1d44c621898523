"""Parse arguments of the command line, without JAX."""

import re
from collections.abc import Mapping
from typing import Any

from gdjax.cli.errors import InputError

MAX_COUNT = 2**31 - 1
"""Largest number of steps, epochs or rows: counts are int32."""
VIRTUAL = 256
"""Most devices of a mesh on a CPU: JAX takes minutes to start a thousand virtual ones."""


def brief(value: Any) -> str:
    """Write a value for an error, shortened.

    >>> brief(-1), brief(2**70_000)
    ('-1', 'an integer of 70,001 bits')
    """
    if isinstance(value, int) and value.bit_length() > 1_000:  # Python writes no more than 4,300 digits
        return f"an integer of {value.bit_length():,} bits"
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def require_given(texts: Mapping[str, str | None]) -> None:
    """Refuse empty texts, such as those of a shell variable that is not set.

    Args:
      texts: the text of each flag, by its name; `None` where it is left out.
    """
    for name, text in texts.items():
        if text == "":
            way = ", or write . for the current directory" if name in ("--out", "--data") else ""
            raise InputError(f"{name} must not be empty: leave it out{way}.")


def axis(text: str) -> tuple[str, int]:
    """Read the axis of a mesh, as in `data=8`: its name, and the number of devices."""
    if "," in text:
        raise InputError(
            f"--mesh must have one axis, got {text!r}: a problem's parameters are replicated, and batches are "
            "sharded over all devices: give data=N."
        )
    found = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*0*([1-9]\d{0,5})\s*", text)
    if not found:
        raise InputError(f"--mesh must be an axis and a number of devices of 1 at least, as in data=8, got {text!r}.")
    return found[1], int(found[2])


def batch_size(text: str) -> int | str:
    """Read a number of rows, or `full`."""
    if text == "full":
        return text
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"--batch-size must be 'full' or a whole number of 1 at least, got {brief(text)}.")
    return number
