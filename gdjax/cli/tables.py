"""Print tables: with borders on a terminal, as plain text elsewhere."""

import functools
import itertools
import shutil
import sys
import textwrap
from collections.abc import Sequence

MAX_WIDTH = 100
NARROW = 24
"""Width up to which a column is not wrapped."""
wrap = functools.partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
"""Wrap text between words only, so that names, links and expressions can be copied."""


def line_width() -> int:
    """Return the width of lines: that of the terminal, from 40 to 100 columns."""
    return max(40, min(shutil.get_terminal_size((MAX_WIDTH, 0)).columns, MAX_WIDTH))


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print rows, with text wrapped in columns that are too wide."""
    if sys.stdout.isatty():
        _print_with_borders(rows, header)
    else:
        print("\n".join(_plain_lines([header, *rows] if header else rows)))


def _print_with_borders(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.ROUNDED if header else box.SIMPLE, show_header=bool(header), header_style="bold")
    if rows and not header:
        for number in range(len(rows[0])):
            table.add_column(style=None if number else "bold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _plain_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = _column_widths(rows)
    lines = []
    for row in rows:
        cells = [_wrap_cell(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(f"{part:<{width}}" for part, width in zip(parts, widths, strict=True)).rstrip())
    return lines


def _wrap_cell(cell: str, width: int) -> list[str]:
    return [part for line in cell.split("\n") for part in wrap(line, width) or [""]]


def _column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths of columns: the widest ones shrink until the table fits, down to their longest word."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    longest_words = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    while sum(widths) + 2 * len(widths) > line_width():
        shrinkable = [i for i, width in enumerate(widths) if width > max(longest_words[i], NARROW)]
        if not shrinkable:
            break
        widths[max(shrinkable, key=widths.__getitem__)] -= 1
    return widths
