"""A row's text as cells to draw: the shortest stretches that cut neither a token nor a character in two."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from evalgpt.core import UsageError
from evalgpt.report.document import RowInfo, Tokenized
from evalgpt.studies.compare.alignment import cuts

__all__ = ["CHUNK", "Cells", "Chapter", "cells_of", "chapters_of", "chunks", "shown"]


CHUNK = 160
"""Cells after which a chunk ends at the next line break; the browser lays out only the chunks in view."""

LONGEST_CHUNK = 1600
"""Cells after which a text without line breaks is broken nevertheless."""

_JOINER = 0x200D

_JOINED = frozenset([_JOINER, *range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080)])

_FLAGS = (0x1F1E6, 0x1F1FF)

_SPACES = {"\n": "↵\n", "\t": "⇥\t", "\r": "␍", "\u00a0": "\u00a0"}

_HEADING = re.compile(
    r"[ \t]*(?:#{1,3}[ \t]+(?P<marked>\S.*)|(?P<chapter>(?:chapter|part|book)[ \t]+(?:\d{1,3}|[ivxlc]{1,8}"
    r"|(?:the[ \t]+)?(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|first|second|third|last))"
    r"\b.{0,60})"
    r"|(?P<roman>[IVXLC]{1,8}\.?(?:(?<=\.)[ \t]+\S.{0,60})?))[ \t]*\r?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Cells:
    """``edges`` int64 [n + 1]: bytes of the row's context and text between which the n cells lie. ``tokens`` int64 [m]
    are indices of tokens, cell by cell, ``count`` int64 [n] how many each cell has."""

    edges: NDArray[np.int64]
    tokens: NDArray[np.int64]
    count: NDArray[np.int64]
    text: list[str]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading, and the byte of the row's text at which it begins."""

    title: str
    at: int


def cells_of(row: RowInfo, *sides: Tokenized) -> Cells | None:
    """The cells of a row as one or more tokenizers cut it; ``tokens`` are the first's.

    None where the text or the place of the tokens is not known.

    Raises:
        UsageError: the spans do not fit the text, which only a changed file has.
    """
    raw = (sides[0].text or "").encode()
    if sides[0].text is None or any(side.byte_starts is None or side.byte_ends is None for side in sides):
        return None
    whole = _characters(sides[0].text)
    for side in sides:
        starts, ends = np.asarray(side.byte_starts, np.int64), np.asarray(side.byte_ends, np.int64)
        fits = len(raw) == row.bytes + row.context_bytes and bool(np.all((starts >= 0) & (starts <= ends)))
        if not fits or bool(np.any(ends > len(raw))):
            raise UsageError(f"the tokens of the text {row.id!r} do not fit it; was the report changed?")
        whole &= cuts(side, len(raw))
    edges = np.flatnonzero(whole)
    last = np.asarray(sides[0].byte_ends, np.int64)
    cell = np.clip(np.searchsorted(edges, last, side="left") - 1, 0, max(len(edges) - 2, 0))
    return Cells(
        edges=edges,
        tokens=np.argsort(cell, kind="stable"),
        count=np.bincount(cell, minlength=len(edges) - 1) if len(edges) > 1 else np.zeros(0, np.int64),
        text=[raw[a:b].decode() for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)],
    )


def _characters(text: str) -> NDArray[np.bool_]:
    """bool [bytes + 1]: where a character as readers see it begins or ends (the clusters of Unicode's annex 29 that
    texts have: marks, variation selectors, emoji put together by joiners, flags, CR LF)."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    flag = (points >= _FLAGS[0]) & (points <= _FLAGS[1])
    distinct, which = np.unique(points, return_inverse=True)
    kinds = [unicodedata.category(chr(point)) for point in distinct.tolist()]
    marks = [
        point in _JOINED or kind in ("Mn", "Me", "Mc") for point, kind in zip(distinct.tolist(), kinds, strict=True)
    ]
    joined = np.array(marks, dtype=bool)[which]
    picture = np.array([kind == "So" for kind in kinds], dtype=bool)[which] & ~flag
    joined[1:] &= points[:-1] >= 0x20
    where = np.arange(len(points))
    base = np.maximum.accumulate(np.where(joined, 0, where))
    joined[1:] |= (points[:-1] == _JOINER) & picture[1:] & picture[base[:-1]]
    joined[1:] |= (points[:-1] == 0x0D) & (points[1:] == 0x0A)
    first = np.maximum.accumulate(np.where(flag & ~np.concatenate([[False], flag[:-1]]), where, 0))
    joined |= flag & ((where - first) % 2 == 1)
    joined[:1] = False
    widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    whole = np.zeros(int(widths.sum()) + 1, dtype=bool)
    whole[(np.cumsum(widths) - widths)[~joined]] = True
    whole[-1] = True
    return whole


def shown(text: str) -> str:
    """``text`` with everything that is invisible, or could steer what stands around it, as a visible symbol."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(c, before) for before, c in zip(" " + text, text, strict=False))


@lru_cache(maxsize=4096)
def _shown(character: str, before: str) -> str:
    if character in _SPACES:
        return _SPACES[character]
    point = ord(character)
    if point < 0x20:
        return chr(0x2400 + point)
    if point == 0x7F:
        return "␡"
    category = unicodedata.category(character)
    if point in _JOINED and (not before.isascii() or (category == "Mn" and before.isalnum())):
        return character
    if point in _JOINED or category in ("Cc", "Cf", "Zl", "Zp", "Cs", "Cn"):
        return f"⟨U+{point:04X}⟩"
    return f"◌{character}" if category.startswith("M") and before.isspace() else character


def chunks(texts: list[str], classes: list[str], ids: dict[int, str]) -> list[tuple[int, int, Markup]]:
    """The cells as HTML, in chunks of (first cell, size class, markup): one ``<i>`` for each cell.

    The size class k says that a chunk has about 2^k lines. ``ids`` name the cells that something links to.
    """
    found: list[tuple[int, int, Markup]] = []
    parts: list[str] = []
    first = characters = lines = 0
    for number, (text, name) in enumerate(zip(texts, classes, strict=True)):
        mark = f' id="{ids[number]}"' if number in ids else ""
        parts.append(f'<i class="{name}"{mark}>{escape(shown(text))}</i>')
        characters += len(text)
        breaks = text.count("\n")
        lines += breaks
        if (breaks and len(parts) >= CHUNK) or len(parts) >= LONGEST_CHUNK or number == len(texts) - 1:
            height = max(lines, 1) + characters // 70
            found.append((first, height.bit_length(), Markup("".join(parts))))  # noqa: S704 - escaped above
            parts, first, characters, lines = [], number + 1, 0, 0
    return found


def chapters_of(row: RowInfo, kept: Tokenized) -> list[Chapter]:
    """Headings: Markdown's ``# ...``, ``CHAPTER IV``, a roman numeral alone on a line or with a title after a stop."""
    if kept.text is None:
        return []
    found: list[Chapter] = []
    at = 0
    blank = True
    for line in kept.text.encode()[row.context_bytes :].split(b"\n"):
        if len(line) <= 120:
            match = _HEADING.fullmatch(line.decode(errors="replace"))
            if match is not None and blank and _is_heading(match):
                found.append(Chapter(" ".join((match["marked"] or match[0]).split()), at))
        blank = not line.strip()
        at += len(line) + 1
    return found if len(found) > 1 else []


def _is_heading(match: re.Match[str]) -> bool:
    """Numerals are capitals, and so is the word chapter's first letter: the rest is prose."""
    if match["roman"]:
        return match["roman"].split()[0].isupper()
    return match["marked"] is not None or match["chapter"][:1].isupper()
