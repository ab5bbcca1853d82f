"""What several pages show alike: rows of facts, cards, charts with their captions."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from evalgpt.views.page.bins import Bin

__all__ = ["Card", "Chart", "Rows", "interval_of", "span_of"]


Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Card:
    """One number: what it is, the number, its unit, its interval or whatever stands below it."""

    name: str
    value: str
    unit: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, what it shows, and the same numbers as a table. ``keys`` name the lines where there are two; ``legend``
    is the name of a fixed one."""

    title: str
    about: str
    drawing: Markup
    headers: tuple[str, ...]
    rows: Rows
    wide: bool = False
    keys: tuple[str, ...] = ()
    legend: str = ""


def span_of(found: Bin) -> str:
    """The range of a bin of whole numbers."""
    return f"{found.begin:,.0f}" if found.begin == found.end else f"{found.begin:,.0f} to {found.end:,.0f}"


def interval_of(found: Bin) -> str:
    """The interval of a bin, nothing where it has none."""
    return "" if found.low is None or found.high is None else f"{found.low:.4f} to {found.high:.4f}"
