"""The terminal: its width, what is printed to it, and tables that fit."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evalgpt.core.text import visible

__all__ = ["console_for", "print_rows", "say", "shown"]


PIPE_WIDTH = 160
"""Columns where the output is no terminal: nothing is wrapped for a reader that is a program."""


def console_for(*, err: bool = False) -> Console:
    """A console that prints texts as they are, wide where its reader is a program."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def shown(console: Console, text: str) -> str:
    """``text`` as the console can print it: what could steer it, and what its encoding lacks, is spelled out."""
    text = visible(text)
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:  # before a table is laid out, so that its columns stand straight
        text = text.replace("±", "+/-").encode(console.encoding, "backslashreplace").decode(console.encoding)
    return text


def say(console: Console, text: str, indent: int = 0) -> None:
    """Print a sentence: wrapped between words on a terminal, on one line for a program."""
    if console.is_terminal:
        console.print(Padding(Text(shown(console, text)), (0, 0, 0, indent)))
    else:
        console.print(" " * indent + shown(console, text), soft_wrap=True)


def print_rows(
    console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]], left: int, names: int | None = None
) -> None:
    """Print a table whose first ``left`` columns are texts and the others numbers.

    Where it does not fit, each row becomes lines of its own, the first ``names`` columns (all texts by default) without
    their headers: no number is cut short and no name dropped.
    """
    names = left if names is None else names
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(headers):
        table.add_column(shown(console, name), justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(shown(console, cell) for cell in row))
    unbounded = console.options.update(max_width=10_000)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        console.print(table)
        return
    for row in rows:
        say(console, ": ".join(cell.strip() for cell in row[:names] if cell.strip()))
        named = zip(headers[names:], row[names:], strict=True)
        say(console, ", ".join(f"{name} {cell}" for name, cell in named if cell), indent=2)
