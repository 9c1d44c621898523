"""Tables: drawn on a terminal, plain text everywhere else."""

import functools
import itertools
import shutil
import sys
import textwrap
from collections.abc import Sequence

WIDEST = 100
NARROW = 24
"""A column of this width stays in one line."""
wrapped = functools.partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
"""Text in lines of a width: what may be copied stays in one piece."""


def width() -> int:
    """Columns that lines may take."""
    return max(40, min(shutil.get_terminal_size((WIDEST, 0)).columns, WIDEST))


def show(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print rows, their text wrapped where it is too wide."""
    if sys.stdout.isatty():
        _drawn(rows, header)
    else:
        print("\n".join(_plain([header, *rows] if header else rows)))


def _drawn(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.ROUNDED if header else box.SIMPLE, show_header=bool(header), header_style="bold")
    for i, row in enumerate(rows):
        if not i and not header:
            for number in range(len(row)):
                table.add_column(style=None if number else "bold")
        table.add_row(*map(Text, row))
    Console().print(table)


def _plain(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = _widths(rows)
    lines = []
    for row in rows:
        cells = [_cut(cell, wide) for cell, wide in zip(row, widths, strict=True)]
        for line in itertools.zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(f"{part:<{wide}}" for part, wide in zip(line, widths, strict=True)).rstrip())
    return lines


def _cut(cell: str, wide: int) -> list[str]:
    return [part for line in cell.split("\n") for part in wrapped(line, wide) or [""]]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Of the columns: as wide as what they hold, but the widest give way, down to their longest word."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    words = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    while sum(widths) + 2 * len(widths) > WIDEST:
        wide = max(
            (i for i in range(len(widths)) if widths[i] > max(words[i], NARROW)), key=lambda i: widths[i], default=None
        )
        if wide is None:
            break
        widths[wide] -= 1
    return widths
