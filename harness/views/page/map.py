"""The text of an evaluation, or of two, as a map of cells with the values of each: HTML in chunks, numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from evalgpt.report.detail import RowDetail
from evalgpt.report.document import Evaluation, RowInfo, Tokenized
from evalgpt.studies.compare.alignment import Spans, token_losses, tokenized
from evalgpt.views.page.bins import Track, passages
from evalgpt.views.page.cells import Cells, cells_of, chunks, shown

__all__ = ["Map", "Passage", "RowMap", "difference_map", "script_json", "token_map"]


LEVELS = 10
"""Classes h0 .. h9, one nat each; the last has no upper end."""

STEPS = (0.25, 1.0, 2.0, 4.0)
"""Nats from which a difference is of class 1, 2, 3, 4."""

MARKED = 0.95
"""Cells above this quantile of the evaluation's are underlined."""


@dataclass(frozen=True, slots=True)
class RowMap:
    """One row's chunks, as :func:`evalgpt.views.page.cells.chunks` gives them, under its label."""

    label: str
    chunks: list[tuple[int, int, Markup]]


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of text to look at: ``value`` is its mean, ``anchor`` the id of its first cell, ``at`` where it is."""

    before: str
    peak: str
    after: str
    value: float
    anchor: str
    label: str
    at: int


@dataclass(slots=True)
class Map:
    """``values`` is the JSON that the page's script reads; ``words`` is False where tokens are shown by their ids."""

    rows: list[RowMap] = field(default_factory=list)
    values: Markup = field(default_factory=Markup)
    passages: list[Passage] = field(default_factory=list)
    others: list[Passage] = field(default_factory=list)
    words: bool = True


def script_json(value: Any) -> Markup:
    """``value`` as JSON that may stand in a script element: nothing in it ends the element or a line."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no markup is left


def _labels(rows: Sequence[RowInfo]) -> list[str]:
    """What stands above each row's text: nothing where there is one."""
    several = len({row.id for row in rows}) > 1
    parts = [(row.id if several else "", row.group, row.label, row.split) for row in rows]
    return [shown(" · ".join(part for part in names if part)) for names in parts]


def token_map(evaluation: Evaluation, track: Track, details: Mapping[int, RowDetail], name: str) -> Map:
    """The map of one evaluation: the surprisal of every token. ``name`` begins the ids of the cells linked to."""
    kept = tokenized(evaluation)
    cells = [_cells(row, one) for row, one in zip(evaluation.rows, kept, strict=True)]
    losses = [_per_cell(c, token_losses(one)) for c, one in zip(cells, kept, strict=True)]
    scored = np.concatenate(losses)
    limit = float(np.quantile(scored[np.isfinite(scored)], MARKED))
    found = Map(words=all(one.text is not None and one.byte_starts is not None for one in kept))
    first = np.cumsum([0, *(len(c.text) for c in cells)])
    spans = passages(track.loss, track.row)
    where = [_token_cells(c) for c in cells]
    ids: dict[int, dict[int, str]] = {}
    labels = _labels(evaluation.rows)
    for number, (begin, end) in enumerate(spans, start=1):
        r = int(track.row[begin])
        inside = np.unique(where[r][track.token[begin:end]])
        anchor = ids.setdefault(r, {}).setdefault(int(inside[0]), f"{name}-p{number}")
        value = float(track.loss[begin:end].mean())
        found.passages.append(_passage(cells[r], inside, losses[r], (value, anchor, labels[r], int(track.at[begin]))))
    for r in range(len(evaluation.rows)):
        classes = _heat(losses[r], limit)
        parts = [(f + int(first[r]), size, html) for f, size, html in chunks(cells[r].text, classes, ids.get(r, {}))]
        found.rows.append(RowMap(labels[r], parts))
    found.values = script_json(_token_values(kept, cells, details))
    return found


def difference_map(a: Evaluation, b: Evaluation, spans: Spans, name: str) -> Map:
    """The map of two, from their aligned ``spans``: where which is better, in nats of the same stretches of text."""
    found = Map()
    values: dict[str, list[Any]] = {"a": [], "b": []}
    rows, gaps, first = [], [], 0
    for r, (row, x, y) in enumerate(zip(a.rows, tokenized(a), tokenized(b), strict=True)):
        cells = cells_of(row, x, y)
        if cells is None:
            found.words = False
            return found
        one, other = _sides(spans, r, cells, row.context_bytes)
        rows.append((row, cells, first))
        gaps.append(other - one)
        values["a"] += _rounded(one)
        values["b"] += _rounded(other)
        first += len(cells.text)
    gap = np.nan_to_num(np.concatenate(gaps))
    group = np.repeat(np.arange(len(rows)), [len(c.text) for _, c, _ in rows])
    ids: dict[int, dict[int, str]] = {}
    labels = _labels(a.rows)
    for sign, target in ((-1, found.passages), (1, found.others)):
        for number, (begin, end) in enumerate(passages(sign * gap, group, 4), start=1):
            value = float(gap[begin:end].sum())
            if sign * value <= 0:
                continue
            row, cells, start = rows[int(group[begin])]
            inside = np.arange(begin - start, end - start)
            letter = "b" if sign < 0 else "a"
            anchor = ids.setdefault(int(group[begin]), {}).setdefault(int(inside[0]), f"{name}-{letter}{number}")
            own = sign * gap[start : start + len(cells.text)]
            at = max(int(cells.edges[inside[0]]) - row.context_bytes, 0) + sum(q.bytes for q, _, s in rows if s < start)
            target.append(_passage(cells, inside, own, (value, anchor, labels[int(group[begin])], at)))
    for r, (_, cells, start) in enumerate(rows):
        parts = chunks(cells.text, _signs(gaps[r]), ids.get(r, {}))
        found.rows.append(RowMap(labels[r], [(f + start, size, html) for f, size, html in parts]))
    found.values = script_json(values)
    return found


def _cells(row: RowInfo, kept: Tokenized) -> Cells:
    """The row's cells; where its text or the places of its tokens are not known, one for each id."""
    n = len(kept.ids)
    found = cells_of(row, kept)
    if found is not None:
        return found
    return Cells(np.arange(n + 1), np.arange(n), np.ones(n, np.int64), [f"{i} " for i in kept.ids])


def _token_cells(cells: Cells) -> NDArray[np.int64]:
    """Each token's cell, int64 [tokens]."""
    where = np.zeros(len(cells.tokens), np.int64)
    where[cells.tokens] = np.repeat(np.arange(len(cells.count)), cells.count)
    return where


def _per_cell(cells: Cells, loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """The loss of each cell's scored tokens together; NaN where none was scored."""
    cell = np.repeat(np.arange(len(cells.count)), cells.count)
    own = loss[cells.tokens]
    known = np.isfinite(own)
    total = np.bincount(cell[known], weights=own[known], minlength=len(cells.count))
    return np.where(np.bincount(cell[known], minlength=len(cells.count)) > 0, total, np.nan)


def _heat(loss: NDArray[np.float64], limit: float) -> list[str]:
    level = np.clip(np.nan_to_num(loss, nan=0.0), 0, LEVELS - 1).astype(int).tolist()
    marked = (loss > limit).tolist()
    known = np.isfinite(loss).tolist()
    return [f"h{n}{' u' if u else ''}" if k else "n" for n, u, k in zip(level, marked, known, strict=True)]


def _signs(gap: NDArray[np.float64]) -> list[str]:
    size = np.searchsorted(STEPS, np.abs(np.nan_to_num(gap)), side="right").tolist()
    signs = np.where(np.isfinite(gap), np.sign(np.nan_to_num(gap)), 9).astype(int).tolist()
    return ["n" if s == 9 else "z" if not n or not s else f"{'a' if s > 0 else 'b'}{n}" for n, s in
            zip(size, signs, strict=True)]  # fmt: skip


def _sides(spans: Spans, r: int, cells: Cells, context: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both losses of each cell; NaN where not all of it was scored by both."""
    own = spans.row == r
    n = len(cells.text)
    cell = np.searchsorted(cells.edges, spans.begin[own], side="right") - 1
    covered = np.bincount(cell, weights=spans.bytes[own], minlength=n)
    whole = (covered == np.diff(np.maximum(cells.edges, context))) & (np.bincount(cell, minlength=n) > 0)
    one, other = (np.where(whole, np.bincount(cell, weights=s[own], minlength=n), np.nan) for s in spans.nll)
    return one, other


def _passage(
    cells: Cells, inside: NDArray[np.int64], weight: NDArray[np.float64], told: tuple[float, str, str, int]
) -> Passage:
    """``inside`` are the passage's cells, of which the one of most ``weight`` is its peak."""
    peak = int(inside[np.argmax(np.nan_to_num(weight[inside], nan=-np.inf))])
    first, last = int(inside[0]), int(inside[-1])
    parts = ["".join(cells.text[a:b]) for a, b in ((first, peak), (peak, peak + 1), (peak + 1, last + 1))]
    before, top, after = (" ".join(shown(part).split("\n")) for part in parts)
    return Passage(before, top, after, *told)


def _rounded(values: NDArray[Any]) -> list[Any]:
    return [x if x == x else None for x in np.round(values.astype(np.float64), 4).tolist()]  # NaN is not itself


def _token_values(kept: list[Tokenized], cells: list[Cells], details: Mapping[int, RowDetail]) -> dict[str, Any]:
    """Columns over the tokens in the order of the cells: id, nll, fed (tokens before it), scores where not 1, bytes of
    those that share a cell; with detail rank, entropy and top (numbers of strings, then log-probabilities)."""
    found: dict[str, Any] = {k: [] for k in ("count", "id", "nll", "fed")} | {"times": {}, "bytes": {}}
    strings: dict[str, int] = {}
    if details:
        found |= {"rank": [], "entropy": [], "top": [], "strings": []}
    for r, (one, cell) in enumerate(zip(kept, cells, strict=True)):
        before = len(found["id"])
        order = cell.tokens
        fed, times = _fed(one)
        found["count"] += cell.count.tolist()
        found["id"] += np.asarray(one.ids, dtype=object)[order].tolist()
        found["nll"] += _rounded(token_losses(one)[order])
        found["fed"] += fed[order].tolist()
        found["times"] |= {str(before + int(i)): int(times[order[i]]) for i in np.flatnonzero(times[order] > 1)}
        found["bytes"] |= {str(before + at): name for at, name in _pieces(one, cell)}
        if details:
            _add_detail(found, strings, details.get(r), order)
    found["strings"] = [shown(text) for text in strings]
    return found


def _fed(kept: Tokenized) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per token, from how many it was predicted when it was first scored (0 where never), and how often it was."""
    fed, times = np.zeros(len(kept.ids), np.int64), np.zeros(len(kept.ids), np.int64)
    for first, size, context in zip(kept.first, kept.size, kept.context, strict=True):
        part = slice(first, first + size)
        fed[part] = np.where(times[part] == 0, np.arange(context, context + size), fed[part])
        times[part] += 1
    return fed, times


def _pieces(kept: Tokenized, cells: Cells) -> list[tuple[int, str]]:
    """The bytes of the tokens that share a cell, by their place in ``cells.tokens``."""
    if kept.text is None or kept.byte_starts is None or kept.byte_ends is None:
        return []
    raw = kept.text.encode()
    shared = np.repeat(cells.count > 1, cells.count)
    places = [(int(i), int(cells.tokens[i])) for i in np.flatnonzero(shared)]
    return [(at, raw[kept.byte_starts[t] : kept.byte_ends[t]][:16].hex(" ").upper()) for at, t in places]


def _add_detail(found: dict[str, Any], strings: dict[str, int], detail: RowDetail | None, order: NDArray[Any]) -> None:
    """Add one row's detail; of a token that was scored more than once, that of its first score."""
    at: dict[int, int] = {}
    for place, token in enumerate([] if detail is None else detail.token.tolist()):
        at.setdefault(token, place)
    for token in order.tolist():
        place = at.get(token, -1)
        if detail is None or place < 0:
            for name in ("rank", "entropy", "top"):
                found[name].append(None)
            continue
        found["rank"].append(int(detail.rank[place]))
        found["entropy"].append(round(float(detail.entropy[place]), 4))
        # A vocabulary smaller than k leaves the last places empty.
        known = np.flatnonzero(np.isfinite(detail.top_logprobs[place])).tolist()
        texts = [strings.setdefault(detail.top_text[place][k], len(strings)) for k in known]
        found["top"].append([*texts, *_rounded(detail.top_logprobs[place][known])])
