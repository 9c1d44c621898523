"""Parse arguments of the command line, without JAX."""

import re
from collections.abc import Mapping

from gdjax.cli.errors import InputError

MAX_COUNT = 2**31 - 1
"""Largest number of steps, epochs or rows: counts are int32."""
MAX_VIRTUAL_DEVICES = 256
"""Most devices of a mesh on a CPU: JAX takes minutes to start a thousand virtual ones."""


def shorten(value: object) -> str:
    """Write a value for an error message, in at most 80 characters.

    >>> shorten(-1), shorten(2**70_000)
    ('-1', 'an integer of 70,001 bits')
    """
    if isinstance(value, int) and value.bit_length() > 1_000:  # Python writes at most 4,300 digits
        return f"an integer of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def require_nonempty(texts: Mapping[str, str | None]) -> None:
    """Refuse empty texts, such as those of an unset shell variable.

    Args:
      texts: the text of each flag, by its name; `None` for a flag that was not given.
    """
    for name, text in texts.items():
        if text == "":
            fix = ", or write . for the current directory" if name in ("--out", "--data") else ""
            raise InputError(f"{name} must not be empty: leave it out{fix}.")


def parse_mesh(text: str) -> tuple[str, int]:
    """Parse a mesh such as `data=8` into the name of its axis and its number of devices."""
    if "," in text:
        raise InputError(
            f"--mesh must have one axis, got {text!r}: parameters are replicated, and batches are sharded over all "
            "devices: give data=N."
        )
    match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*0*([1-9]\d{0,5})\s*", text)
    if not match:
        raise InputError(f"--mesh must be AXIS=N with at least one device, as in data=8, got {text!r}.")
    return match[1], int(match[2])


def parse_batch_size(text: str) -> int | str:
    """Parse a number of rows, or `full`."""
    if text == "full":
        return text
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"--batch-size must be 'full' or an integer of at least 1, got {shorten(text)}.")
    return number
