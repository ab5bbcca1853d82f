"""Loss, perplexity, bits per byte and the ledger of scored tokens, from rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Row

__all__ = ["ContextLengths", "Ledger", "Metrics", "ledger", "measure", "token_means"]


@dataclass(frozen=True, slots=True)
class ContextLengths:
    """How many fed tokens the scored tokens had before them, one count per score.

    ``histogram`` gives (from, to, scores) over ranges that double: 0-1, 2-3, 4-7, ...
    """

    smallest: int
    median: float
    mean: float
    largest: int
    histogram: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What happened to every token: ``tokens = given + scored + head + inside + tail``.

    ``given`` belong to a document's context, which is fed and not scored. ``head`` stand before the first scored
    token of their piece, ``tail`` behind the last, ``inside`` between. ``twice`` of the scored ones were scored
    more than once; ``scores`` counts every score. ``unscored_pieces`` are texts too short to score at all; their
    tokens are in ``tail``.
    """

    tokens: int
    given: int
    scored: int
    head: int
    inside: int
    tail: int
    twice: int
    scores: int
    pieces: int
    unscored_pieces: int
    context: ContextLengths | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Numbers over all scores. Perplexities are None where they exceed a float, or words or bytes are unknown.

    ``loss`` is the token-weighted mean NLL in nats, summed in float64; ``perplexity`` is exp(loss) and
    ``bits_per_token`` loss / ln 2. Per byte and per word, each scored token counts once: ``bits_per_byte`` is
    total NLL / (ln 2 * UTF-8 bytes), ``byte_perplexity`` and ``word_perplexity`` are exp(total NLL / bytes or
    words). Bytes and words are those of scored tokens only; words are runs of non-space characters.
    """

    loss: float
    perplexity: float | None
    bits_per_token: float
    bits_per_byte: float | None
    byte_perplexity: float | None
    word_perplexity: float | None
    scores: int
    nll: float
    bytes: int | None
    words: int | None


def token_means(row: Row) -> NDArray[np.float64]:
    """NLL per token of the row, float64 [tokens], nats: NaN where unscored, the mean where scored repeatedly."""
    total = np.zeros(len(row.ids))
    count = np.zeros(len(row.ids))
    for window, nll in _scores(row):
        total[window] += nll
        count[window] += 1
    with np.errstate(invalid="ignore"):
        return total / count


def ledger(rows: Sequence[Row]) -> Ledger:
    """Account for every token of ``rows``."""
    totals = dict.fromkeys(("tokens", "given", "scored", "head", "inside", "tail", "twice", "scores"), 0)
    unscored = 0
    lengths = np.zeros(2 + max((w.context + w.size for row in rows for w in row.windows), default=0), dtype=np.int64)
    for row in rows:
        count = np.zeros(len(row.ids) + 1, dtype=np.int64)
        for first, size, fed in row.windows:
            count[first] += 1
            count[first + size] -= 1
            lengths[fed] += 1
            lengths[fed + size] -= 1
        count = np.cumsum(count[:-1])
        (where,) = np.nonzero(count)
        totals["tokens"] += len(row.ids)
        totals["given"] += row.context_tokens
        totals["scored"] += len(where)
        totals["twice"] += int((count > 1).sum())
        totals["scores"] += int(count.sum())
        if len(where):
            totals["head"] += int(where[0]) - row.context_tokens
            totals["inside"] += int(where[-1] - where[0]) + 1 - len(where)
            totals["tail"] += len(row.ids) - 1 - int(where[-1])
        else:
            unscored += 1
            totals["tail"] += len(row.ids) - row.context_tokens
    context = _context_lengths(np.cumsum(lengths)) if totals["scores"] else None
    return Ledger(**totals, pieces=len(rows), unscored_pieces=unscored, context=context)


def measure(rows: Sequence[Row]) -> Metrics:
    """The metrics over ``rows``, which must hold at least one score."""
    scores = sum(len(row.nll) for row in rows)
    nll = sum(float(row.nll.sum(dtype=np.float64)) for row in rows)
    once = sum(float(np.nansum(token_means(row))) for row in rows)
    counts = [_bytes_and_words(row) for row in rows]
    size = _total([c[0] for c in counts])
    words = _total([c[1] for c in counts])
    loss = nll / scores
    return Metrics(
        loss=loss,
        perplexity=_exp(loss),
        bits_per_token=loss / math.log(2),
        bits_per_byte=once / size / math.log(2) if size else None,
        byte_perplexity=_exp(once / size) if size else None,
        word_perplexity=_exp(once / words) if words else None,
        scores=scores,
        nll=nll,
        bytes=size,
        words=words,
    )


def _scores(row: Row) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    at = 0
    for first, size, _ in row.windows:
        yield slice(first, first + size), row.nll[at : at + size]
        at += size


def _context_lengths(per_length: NDArray[np.int64]) -> ContextLengths:
    (lengths,) = np.nonzero(per_length)
    cumulative = np.cumsum(per_length)
    total = int(cumulative[-1])
    low, high = (int(np.searchsorted(cumulative, k, side="right")) for k in ((total - 1) // 2, total // 2))
    edges = [0] + [1 << k for k in range(1, len(per_length).bit_length() + 1)]
    ranges = itertools.pairwise(edges)
    return ContextLengths(
        smallest=int(lengths[0]),
        median=(low + high) / 2,
        mean=float(np.arange(len(per_length)) @ per_length / total),
        largest=int(lengths[-1]),
        histogram=[(a, b - 1, n) for a, b in ranges if (n := int(per_length[a:b].sum()))],
    )


def _bytes_and_words(row: Row) -> tuple[int | None, int | None]:
    """UTF-8 bytes and words of the scored tokens' text, each token once."""
    if not row.windows:
        return 0, 0
    scored = np.zeros(len(row.ids), dtype=bool)
    for where, _ in _scores(row):
        scored[where] = True
    whole = (row.document.context if row.context_tokens else "").encode() + row.text.encode()
    if row.byte_spans is None:
        if not scored[row.context_tokens :].all():
            return None, None
        return len(row.text.encode()), len(row.text.split())
    mask = np.zeros(len(whole) + 1, dtype=np.int64)
    spans = np.asarray(row.byte_spans, dtype=np.int64)[scored]
    np.add.at(mask, spans[:, 0], 1)
    np.add.at(mask, spans[:, 1], -1)
    covered = np.cumsum(mask[:-1]) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered.astype(np.int8), [0]])))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    words = sum(len(whole[a:b].decode(errors="ignore").split()) for a, b in runs)
    return int(covered.sum()), words


def _total(parts: Sequence[int | None]) -> int | None:
    return None if None in parts else sum(part or 0 for part in parts)


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 709 else None
