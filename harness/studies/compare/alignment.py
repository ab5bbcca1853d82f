"""Two evaluations of one text, unit by unit: the same tokens, or the shortest stretches that cut no token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import UsageError
from evalgpt.report.document import Evaluation, RowInfo, Tokenized
from evalgpt.report.metrics import token_bytes, token_sums
from evalgpt.report.repeats import originals_of

__all__ = ["Spans", "align", "cuts", "originals", "token_losses", "tokenized"]


N = TypeVar("N", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Spans:
    """Per unit: both losses in nats, bytes, tokens of each side, the document's number, and the row with where it
    begins there: at a byte of context and text, or at a token where those are the same."""

    nll: tuple[NDArray[np.float64], NDArray[np.float64]]
    tokens: tuple[NDArray[np.float64], NDArray[np.float64]]
    bytes: NDArray[np.float64]
    document: NDArray[np.int64]
    row: NDArray[np.int64]
    begin: NDArray[np.int64]


def tokenized(evaluation: Evaluation) -> list[Tokenized]:
    """What the rows that keep it have of single tokens."""
    return [row.tokenized for row in evaluation.rows if row.tokenized is not None]


def originals(evaluation: Evaluation) -> list[int]:
    """Of each row, which keep single tokens, the number of the row that it repeats; its own where it repeats none."""
    rows = zip(evaluation.rows, tokenized(evaluation), strict=True)
    return originals_of((row.group or row.id, (row.split, row.context_bytes, kept.text)) for row, kept in rows)


def align(a: Evaluation, b: Evaluation, same: bool = False) -> Spans:
    """What both scored of one text: token by token where they are the ``same``, else by shared byte positions.

    Raises:
        UsageError: a tokenizer cannot tell where its tokens lie, or the two cut the text into other pieces.
    """
    if len(a.rows) != len(b.rows):
        raise UsageError(f"the text is cut into {len(a.rows)} pieces on one side and {len(b.rows)} on the other")
    # A group of documents (a minimal pair) is one observation: its texts are nearly the same.
    documents = {name: number for number, name in enumerate(dict.fromkeys(row.group or row.id for row in a.rows))}
    parts = []
    for number, (row, x, y) in enumerate(zip(a.rows, tokenized(a), tokenized(b), strict=True)):
        length = row.bytes + row.context_bytes
        one, other = (token_losses(x), token_losses(y))
        if same:
            edges = np.arange(len(x.ids) + 1)
            ends = (edges[1:], edges[1:])
            widths = _own_bytes(x, row)
        else:
            _need_spans(x, a)
            _need_spans(y, b)
            edges = np.flatnonzero(cuts(x, length) & cuts(y, length))
            ends = (np.asarray(x.byte_ends, np.int64), np.asarray(y.byte_ends, np.int64))
            widths = np.diff(np.maximum(edges, row.context_bytes)).astype(np.float64)
        parts.append(_sum_over(edges, ends, (one, other), widths, (documents[row.group or row.id], number)))
    document = np.concatenate([p.document for p in parts])
    order = np.argsort(document, kind="stable")

    def joined(column: Sequence[NDArray[N]]) -> NDArray[N]:
        return np.concatenate(column)[order]

    return Spans(
        nll=(joined([p.nll[0] for p in parts]), joined([p.nll[1] for p in parts])),
        tokens=(joined([p.tokens[0] for p in parts]), joined([p.tokens[1] for p in parts])),
        bytes=joined([p.bytes for p in parts]),
        document=document[order],
        row=joined([p.row for p in parts]),
        begin=joined([p.begin for p in parts]),
    )


def _sum_over(
    edges: NDArray[np.int64],
    ends: tuple[NDArray[np.int64], NDArray[np.int64]],
    losses: tuple[NDArray[np.float64], NDArray[np.float64]],
    widths: NDArray[np.float64],
    place: tuple[int, int],
) -> Spans:
    """Sums per stretch between ``edges``; only stretches of which both sides scored every token, and had one.
    ``place`` is the numbers of document and row."""
    count = len(edges) - 1
    keep = np.ones(count, dtype=bool)
    sums: list[NDArray[np.float64]] = []
    tokens: list[NDArray[np.float64]] = []
    for end, nll in zip(ends, losses, strict=True):
        span = np.clip(np.searchsorted(edges, end, side="left") - 1, 0, max(count - 1, 0))
        # NaN where a token was not scored
        total = np.bincount(span, weights=nll, minlength=count)[:count].astype(np.float64)
        number = np.bincount(span, minlength=count)[:count].astype(np.float64)
        keep &= np.isfinite(total) & (number > 0)
        sums.append(total)
        tokens.append(number)
    return Spans(
        nll=(sums[0][keep], sums[1][keep]),
        tokens=(tokens[0][keep], tokens[1][keep]),
        bytes=widths[keep],
        document=np.full(int(keep.sum()), place[0], dtype=np.int64),
        row=np.full(int(keep.sum()), place[1], dtype=np.int64),
        begin=edges[:-1][keep],
    )


def token_losses(kept: Tokenized) -> NDArray[np.float64]:
    """NLL per token, nats: NaN where unscored, the mean where scored more than once."""
    windows = zip(kept.first, kept.size, strict=True)
    total, count = token_sums(len(kept.ids), windows, kept.nll)
    with np.errstate(invalid="ignore"):
        return total / count


def cuts(kept: Tokenized, length: int) -> NDArray[np.bool_]:
    """bool [length + 1]: the byte positions at which no token is cut in two."""
    inside = np.zeros(length + 2, dtype=np.int64)
    starts, ends = np.asarray(kept.byte_starts, np.int64), np.asarray(kept.byte_ends, np.int64)
    wide = ends > starts
    np.add.at(inside, starts[wide] + 1, 1)
    np.add.at(inside, ends[wide], -1)
    return np.asarray(np.cumsum(inside)[: length + 1] == 0)


def _own_bytes(kept: Tokenized, row: RowInfo) -> NDArray[np.float64]:
    spans = None
    if kept.byte_starts is not None and kept.byte_ends is not None:
        spans = (kept.byte_starts, kept.byte_ends)
    return token_bytes(len(kept.ids), spans, row.context_bytes, row.bytes)


def _need_spans(kept: Tokenized, evaluation: Evaluation) -> None:
    if kept.byte_starts is None or kept.byte_ends is None:
        raise UsageError(
            f"the tokenizers differ and that of {evaluation.model.spec} cannot tell where its tokens lie in the text, "
            f"so there is nothing to align"
        )
