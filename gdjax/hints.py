"""Suggest the name that was meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to end an error with, or an empty string.

    >>> nearest("adamv", ["adam", "sgd"])
    ", did you mean 'adam'"
    """
    close = difflib.get_close_matches(name[:80], sorted(known), n=1)
    return f", did you mean {close[0]!r}" if close else ""
