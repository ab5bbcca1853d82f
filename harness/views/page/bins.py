"""What the page's charts and tables show, as numbers: from single tokens of an evaluation to bins with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgpt.report.detail import RowDetail
from evalgpt.report.document import Evaluation, RowInfo, Tokenized
from evalgpt.report.metrics import token_bytes
from evalgpt.report.statistics import ratio_estimate
from evalgpt.studies.compare.alignment import originals, token_losses

__all__ = ["Bin", "Calibration", "Track", "along", "by_context", "calibrate", "distribution", "passages", "track_of"]


BINS = 48
"""Points of the loss along the text."""

PASSAGE = 24
"""Scored tokens in a passage."""

ENOUGH = 20
"""Tokens below which a bin is joined to its neighbour."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A mean over the entries between ``begin`` and ``end``, with its 95 % interval where there are enough."""

    begin: float
    end: float
    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Track:
    """An evaluation's scored tokens once each, in the order of the text, and its scores.

    ``loss`` (nats, the mean where a token was scored more than once), ``size`` (bytes of text), ``at`` (bytes of text
    before it, counted over all rows; tokens where ``places`` is False), ``row``, ``token`` and ``document`` are [n].
    ``nll`` (nats), ``fed`` (tokens it was predicted from) and ``owner`` (the document's number) are per score.
    """

    loss: NDArray[np.float64]
    size: NDArray[np.float64]
    at: NDArray[np.float64]
    row: NDArray[np.int64]
    token: NDArray[np.int64]
    document: NDArray[np.int64]
    nll: NDArray[np.float64]
    fed: NDArray[np.int64]
    owner: NDArray[np.int64]
    places: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often the likeliest token was right (``Bin.value``), by the probability the model gave it.

    ``error`` is the expected calibration error: the mean distance of the two, weighted by scores (Naeini et al. 2015).
    ``predicted`` is each bin's mean probability.
    """

    bins: list[Bin]
    predicted: list[float]
    error: float
    accuracy: float


def track_of(evaluation: Evaluation) -> Track | None:
    """The track of ``evaluation``, None where a row keeps no single tokens or nothing was scored."""
    rows = [(row, row.tokenized) for row in evaluation.rows if row.tokenized is not None]
    if len(rows) < len(evaluation.rows) or not any(row.scores for row, _ in rows):
        return None
    numbers = {name: n for n, name in enumerate(dict.fromkeys(row.group or row.id for row, _ in rows))}
    clusters = [numbers[evaluation.rows[n].group or evaluation.rows[n].id] for n in originals(evaluation)]
    places = all(kept.byte_starts is not None for _, kept in rows)
    parts, before = [], 0
    for number, (row, kept) in enumerate(rows):
        parts.append(_track(row, kept, (number, clusters[number]), (before, places)))
        before += row.bytes if places else row.tokens
    names = ("loss", "size", "at", "row", "token", "document", "nll", "fed", "owner")
    return Track(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names}, places=places)


def _track(row: RowInfo, kept: Tokenized, number: tuple[int, int], place: tuple[int, bool]) -> Track:
    """``number`` is of row and document, ``place`` what stands before, and whether that is bytes."""
    loss = token_losses(kept)
    token = np.flatnonzero(np.isfinite(loss))
    spans = None
    where = np.arange(row.tokens)
    if kept.byte_starts is not None and kept.byte_ends is not None:
        spans = (kept.byte_starts, kept.byte_ends)
        where = np.maximum(np.asarray(kept.byte_starts, np.int64) - row.context_bytes, 0)
    order = token if not place[1] else token[np.argsort(where[token], kind="stable")]
    fed = [np.arange(c, c + size) for c, size in zip(kept.context, kept.size, strict=True)]
    return Track(
        loss=loss[order],
        size=token_bytes(row.tokens, spans, row.context_bytes, row.bytes)[order],
        at=place[0] + where[order].astype(np.float64),
        row=np.full(len(order), number[0]),
        token=order,
        document=np.full(len(order), number[1]),
        nll=np.asarray(kept.nll, np.float32).astype(np.float64),
        fed=np.concatenate(fed) if fed else np.zeros(0, np.int64),
        owner=np.full(len(kept.nll), number[1]),
        places=place[1],
    )


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64], document: NDArray[np.int64]) -> tuple[float, ...]:
    order = np.argsort(document, kind="stable")
    found = ratio_estimate(values[order], weights[order], document[order])
    low, high = (math.nan if x is None else x for x in (found.low, found.high))
    return found.value, low, high


def _bin(begin: float, end: float, found: Sequence[float], count: int) -> Bin:
    value, low, high = found
    known = math.isfinite(low) and math.isfinite(high)
    return Bin(begin, end, value, low if known else None, high if known else None, count)


def by_context(track: Track) -> list[Bin]:
    """Mean loss (nats per token) by the number of tokens fed before it, in ranges that grow by half an octave, joined
    until each has enough scores."""
    edges = sorted({math.ceil(2 ** (k / 2)) for k in range(2 * int(track.fed.max()).bit_length() + 1)})
    inside = np.searchsorted(edges, track.fed, side="right")
    counts = np.bincount(inside)
    joined, number, total = np.zeros(len(counts), dtype=np.int64), 0, 0
    for k, n in enumerate(counts.tolist()):
        joined[k] = number
        total += n
        if total >= ENOUGH and counts[k + 1 :].sum() >= ENOUGH:
            number, total = number + 1, 0
    inside = joined[inside]
    found: list[Bin] = []
    for k in np.unique(inside).tolist():
        mask = inside == k
        begin, end = int(track.fed[mask].min()), int(track.fed[mask].max())
        mean = _mean(track.nll[mask], np.ones(int(mask.sum())), track.owner[mask])
        found.append(_bin(begin, end, mean, int(mask.sum())))
    return found


def along(track: Track) -> list[Bin]:
    """Bits per byte (nats per token where no bytes are known) along the text, in equal numbers of tokens."""
    count = max(1, min(BINS, len(track.at) // ENOUGH))
    cut = np.linspace(0, len(track.at), count + 1).astype(int).tolist()
    end = float(track.at[-1] + (track.size[-1] if track.places else 1))
    found = []
    for first, last in itertools.pairwise(cut):
        weight = track.size[first:last] if track.places else np.ones(last - first)
        if weight.sum() > 0:
            scale = math.log(2) if track.places else 1.0
            mean = _mean(track.loss[first:last] / scale, weight, track.document[first:last])
            stop = float(track.at[last]) if last < len(track.at) else end
            found.append(_bin(float(track.at[first]), stop, mean, last - first))
    return found


def distribution(values: NDArray[np.float64]) -> list[Bin]:
    """How many of ``values`` (nats) lie where, in equal bins of which 0 is an edge; ``Bin.value`` is the share."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-9)
    step = next((s for s in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0) if (high - low) / s <= 40), (high - low) / 40)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    edges = np.arange(first, last + 1) * step
    counts, _ = np.histogram(values, edges)
    return [
        Bin(float(a), float(b), float(n) / len(values), None, None, int(n))
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def calibrate(details: Mapping[int, RowDetail]) -> Calibration | None:
    """The calibration of the likeliest token over rows with detail, with Wilson's 95 % intervals of the shares; None
    where there is none."""
    parts = [d for d in details.values() if len(d.rank) and d.top_logprobs.ndim == 2 and d.top_logprobs.shape[1]]
    if not parts:
        return None
    from scipy.stats import binomtest  # takes about a second to import, and most pages have no detail

    sure = np.exp(np.concatenate([d.top_logprobs[:, 0] for d in parts]).astype(np.float64))
    right = np.concatenate([d.rank for d in parts]) == 0
    which = np.clip((sure * 10).astype(int), 0, 9)
    bins, predicted, error = [], [], 0.0
    for k in np.unique(which).tolist():
        mask = which == k
        n, share = int(mask.sum()), float(right[mask].mean())
        low, high = binomtest(int(right[mask].sum()), n).proportion_ci(method="wilson")
        bins.append(Bin(k / 10, (k + 1) / 10, share, float(low), float(high), n))
        predicted.append(float(sure[mask].mean()))
        error += n / len(sure) * abs(share - predicted[-1])
    return Calibration(bins, predicted, error, float(right.mean()))


def passages(values: NDArray[np.float64], group: NDArray[np.int64], most: int = 5) -> list[tuple[int, int]]:
    """(first, last + 1) of the ``most`` stretches of :data:`PASSAGE` entries with the greatest sums of ``values``, none
    over another or over the border of a ``group`` (ascending), greatest first. Shorter groups count as a whole."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.minimum(np.arange(len(values)) + PASSAGE, np.searchsorted(group, group, side="right"))
    begin = np.searchsorted(group, group, side="left")
    full = (last - np.arange(len(values)) == PASSAGE) | (np.arange(len(values)) == begin)
    total = np.where(full, sums[last] - sums[:-1], -np.inf)
    found: list[tuple[int, int]] = []
    for first in np.argsort(-total, kind="stable").tolist():
        if len(found) == most or not total[first] > -math.inf:
            break
        span = (first, int(last[first]))
        if all(span[1] <= a or b <= span[0] for a, b in found):
            found.append(span)
    return found
