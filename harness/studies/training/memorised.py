"""What a model knows by heart: stretches of a text whose every token it gives nearly all of the probability."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from evalgpt.core import Model
from evalgpt.core.answers import decode
from evalgpt.report.document import Evaluation, RowInfo, Tokenized
from evalgpt.studies.training.log import Memorised, Span

__all__ = ["memorised"]


LONGEST = 5
"""How many spans are kept of each part."""


def memorised(model: Model, evaluation: Evaluation, updates: int, probability: float) -> Memorised:
    """The spans of each part of ``evaluation``, made with its tokens, that ``model`` predicts with more than
    ``probability`` for each token."""
    limit = -math.log(probability)
    share, spans = {}, {}
    for split in evaluation.splits:
        rows = [(row, row.tokenized) for row in evaluation.rows if row.split == split and row.tokenized is not None]
        nll = np.concatenate([np.asarray(kept.nll, np.float32) for _, kept in rows])
        share[split] = float((nll < limit).mean())
        found = [span for row, kept in rows for span in _spans(model, row, kept, limit)]
        spans[split] = sorted(found, key=lambda span: -span.tokens)[:LONGEST]
    return Memorised(updates=updates, probability=probability, share=share, spans=spans)


def _spans(model: Model, row: RowInfo, kept: Tokenized, limit: float) -> Iterator[Span]:
    """The longest runs of neighbouring tokens below ``limit``; a token scored twice counts with the later window."""
    losses = np.full(len(kept.ids), np.inf, dtype=np.float32)
    at = 0
    for first, size in zip(kept.first, kept.size, strict=True):
        losses[first : first + size] = kept.nll[at : at + size]
        at += size
    edges = np.flatnonzero(np.diff(np.concatenate([[0], losses < limit, [0]]).astype(np.int8)))
    runs = sorted(zip(edges[::2], edges[1::2], strict=True), key=lambda run: run[0] - run[1])
    for begin, end in runs[:LONGEST]:
        yield Span(
            document=row.id,
            split=row.split,
            first=int(begin),
            tokens=int(end - begin),
            loss=float(losses[begin:end].mean()),
            text=decode(model, kept.ids[begin:end]),
        )
