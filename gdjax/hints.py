"""Suggest a known name for a misspelled one."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for the end of an error message, or an empty string.

    >>> nearest("adamv", ["adam", "sgd"])
    ", did you mean 'adam'"
    """
    close = difflib.get_close_matches(name[:80], sorted(known), n=1)
    return f", did you mean {close[0]!r}" if close else ""
