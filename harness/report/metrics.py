"""Loss, perplexity, bits per byte and the ledger of scored tokens, from rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalgpt.core import Row
from evalgpt.report.counts import bytes_and_words
from evalgpt.report.repeats import contents_of, fold_repeats, originals_of
from evalgpt.report.statistics import ratio_estimate

__all__ = [
    "ContextLengths",
    "Ledger",
    "Metrics",
    "Sums",
    "Uncertainty",
    "context_lengths",
    "ledger",
    "measure",
    "metrics_of",
    "token_bytes",
    "token_means",
    "token_sums",
    "uncertainty_of",
]


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
class Uncertainty:
    """How far the same measurement on more text of this kind may lie, as (low, high) at ``level``.

    Neighbouring tokens are correlated, so this is not the i.i.d. standard error: :mod:`evalgpt.report.statistics` says
    how it is taken, ``method``, ``block_length`` and ``units`` what it rests on. ``loss_error`` is the standard error
    of the loss, nats. The perplexity's bounds are exp of the loss's.
    """

    level: float
    method: str
    block_length: float
    units: int
    degrees_of_freedom: float
    loss_error: float
    loss: tuple[float, float]
    perplexity: tuple[float | None, float | None]
    bits_per_byte: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Numbers over all scores. Perplexities are None where they exceed a float, or words or bytes are unknown.

    ``loss`` is the token-weighted mean NLL in nats, summed in float64; ``perplexity`` is exp(loss) and
    ``bits_per_token`` loss / ln 2. Per byte and per word, each scored token counts once: ``bits_per_byte`` is
    total NLL / (ln 2 * UTF-8 bytes), ``byte_perplexity`` and ``word_perplexity`` are exp(total NLL / bytes or
    words). Bytes and words are those of scored tokens only; a word is a run of characters that are not white space,
    and counts where its first byte is scored. ``mean_text_perplexity`` is the mean over texts of exp(loss of the text),
    Hugging Face evaluate's ``mean_perplexity``; None for a single text and for texts in parts. ``uncertainty`` is None
    where there are too few tokens to tell.
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
    mean_text_perplexity: float | None = None
    uncertainty: Uncertainty | None = None


def token_sums(
    tokens: int, windows: Iterable[tuple[int, int]], nll: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per token, float64 [tokens], the sum of its losses (nats) and how often it was scored.

    ``windows`` are (first, size) of the tokens that each window scored, ``nll`` their losses, flat in that order. The
    decimals of a report stand for the float32 nearest to them, so that sums are those of the run.
    """
    losses = np.asarray(nll, dtype=np.float32).astype(np.float64)
    total, count = np.zeros(tokens), np.zeros(tokens)
    at = 0
    for first, size in windows:
        total[first : first + size] += losses[at : at + size]
        count[first : first + size] += 1
        at += size
    return total, count


def token_bytes(tokens: int, spans: tuple[ArrayLike, ArrayLike] | None, context: int, text: int) -> NDArray[np.float64]:
    """UTF-8 bytes of the text in each token, float64 [tokens], behind a context of ``context`` bytes.

    ``spans`` are the tokens' starts and ends in context and text; without them each token has an even share of the
    text's bytes. Of a token that reaches out of the context the text's part counts, and of tokens that share a
    character the first has its bytes.
    """
    if spans is None:
        return np.full(tokens, text / max(tokens, 1))
    ends = np.maximum(np.maximum.accumulate(np.asarray(spans[1], dtype=np.int64)), context)
    starts = np.maximum(np.asarray(spans[0], dtype=np.int64), np.concatenate([[context], ends[:-1]]))
    return np.asarray(ends - starts, dtype=np.float64)


def token_means(row: Row) -> NDArray[np.float64]:
    """NLL per token of the row, float64 [tokens], nats: NaN where unscored, the mean where scored repeatedly."""
    total, count = _sums(row)
    with np.errstate(invalid="ignore"):
        return total / count


def _sums(row: Row) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return token_sums(len(row.ids), ((w.first, w.size) for w in row.windows), row.nll)


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
    context = context_lengths(np.cumsum(lengths)) if totals["scores"] else None
    return Ledger(**totals, pieces=len(rows), unscored_pieces=unscored, context=context)


def measure(rows: Sequence[Row]) -> Metrics:
    """The metrics over ``rows``, which must hold at least one score."""
    counts = [bytes_and_words(row, _sums(row)[1] > 0) for row in rows]
    sums = Sums(
        scores=sum(len(row.nll) for row in rows),
        nll=sum(float(row.nll.sum(dtype=np.float64)) for row in rows),
        once=sum(float(np.nansum(token_means(row))) for row in rows),
        bytes=_total([c[0] for c in counts]),
        words=_total([c[1] for c in counts]),
    )
    return metrics_of(sums, _mean_text_perplexity(rows), _uncertainty(rows, sums))


@dataclass(frozen=True, slots=True)
class Sums:
    """What most numbers are made of: scores and their NLL (nats), the NLL with each token once, bytes, words."""

    scores: int
    nll: float
    once: float
    bytes: int | None
    words: int | None

    @property
    def loss(self) -> float:
        return self.nll / self.scores

    @property
    def bits_per_byte(self) -> float | None:
        return self.once / self.bytes / math.log(2) if self.bytes else None


def metrics_of(sums: Sums, mean_text_perplexity: float | None, uncertainty: Uncertainty | None) -> Metrics:
    """The metrics that ``sums`` give."""
    return Metrics(
        loss=sums.loss,
        perplexity=_exp(sums.loss),
        bits_per_token=sums.loss / math.log(2),
        bits_per_byte=sums.bits_per_byte,
        byte_perplexity=_exp(sums.once / sums.bytes) if sums.bytes else None,
        word_perplexity=_exp(sums.once / sums.words) if sums.words else None,
        scores=sums.scores,
        nll=sums.nll,
        bytes=sums.bytes,
        words=sums.words,
        mean_text_perplexity=mean_text_perplexity,
        uncertainty=uncertainty,
    )


def _mean_text_perplexity(rows: Sequence[Row]) -> float | None:
    losses = [float(row.nll.mean(dtype=np.float64)) for row in rows if len(row.nll)]
    if len(losses) < 2 or max(losses) >= 709 or any(row.split for row in rows):
        return None
    return float(np.exp(losses).mean())


def _uncertainty(rows: Sequence[Row], sums: Sums) -> Uncertainty | None:
    # A group of documents (a minimal pair) is one observation: its texts are nearly the same.
    contents = contents_of(rows)
    numbers = {name: n for n, name in enumerate(dict.fromkeys(name for name, _ in contents))}
    columns: list[list[NDArray[np.float64]]] = [[], [], [], []]
    documents, numbered, places = [], [], []
    for number, (row, (name, _)) in enumerate(zip(rows, contents, strict=True)):
        total, count = _sums(row)
        (scored,) = np.nonzero(count)
        each = (total[scored], count[scored], total[scored] / count[scored], _sizes(row)[scored])
        for column, values in zip(columns, each, strict=True):
            column.append(values)
        documents.append(np.full(len(scored), numbers[name]))
        numbered.append(np.full(len(scored), number))
        places.append(scored)
    document = np.concatenate(documents)
    order = np.argsort(document, kind="stable")
    place = (np.concatenate(numbered)[order], np.concatenate(places)[order])
    entries = [np.concatenate(column)[order] for column in columns]
    folded, document = fold_repeats(entries, document[order], place, originals_of(contents))
    return uncertainty_of((folded[0], folded[1]), (folded[2], folded[3]), document, sums)


def uncertainty_of(
    loss: tuple[ArrayLike, ArrayLike],
    bits: tuple[ArrayLike, ArrayLike],
    document: NDArray[np.int64],
    sums: Sums,
    tokens_per_entry: float = 1.0,
) -> Uncertainty | None:
    """The intervals around what ``sums`` give, from entries in text order, each a token or as many as
    ``tokens_per_entry``: the numerator (nats) and denominator of the loss, and those of the bits per byte."""
    found = ratio_estimate(*loss, document)
    if found.standard_error is None or found.low is None or found.high is None:
        return None
    around_bits = None
    if sums.bits_per_byte is not None and np.any(bits[1]):  # spans may all be empty, as of a text that is normalised
        spread = ratio_estimate(np.asarray(bits[0]) / math.log(2), bits[1], document)
        if spread.low is not None and spread.high is not None:
            middle = sums.bits_per_byte
            around_bits = (middle + spread.low - spread.value, middle + spread.high - spread.value)
    low, high = sums.loss + found.low - found.value, sums.loss + found.high - found.value
    each = tokens_per_entry if found.method == "cosines" else 1.0
    return Uncertainty(
        level=found.level,
        method=found.method,
        block_length=found.block_length * each,
        units=round(found.units * each),
        degrees_of_freedom=found.degrees_of_freedom,
        loss_error=found.standard_error,
        loss=(low, high),
        perplexity=(_exp(low), _exp(high)),
        bits_per_byte=around_bits,
    )


def _sizes(row: Row) -> NDArray[np.float64]:
    spans = None
    if row.byte_spans is not None:
        both = np.asarray(row.byte_spans, dtype=np.int64).reshape(-1, 2)
        spans = (both[:, 0], both[:, 1])
    return token_bytes(len(row.ids), spans, len(row.document.context.encode()), len(row.text.encode()))


def context_lengths(per_length: NDArray[np.int64]) -> ContextLengths:
    """What ``per_length``, scores by the number of fed tokens before them, says."""
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


def _total(parts: Sequence[int | None]) -> int | None:
    return None if None in parts else sum(part or 0 for part in parts)


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 709 else None
