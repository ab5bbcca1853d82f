"""What each token of an evaluation cost, and what it was predicted from, in a form that two evaluations share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.report.document import Evaluation, RowInfo
from evalgpt.report.metrics import token_sums

__all__ = ["Side", "part_of", "side_of"]


@dataclass(frozen=True, slots=True)
class Side:
    """Every token of one evaluation. ``loss`` is NaN where it was not scored, the mean where it was repeatedly;
    ``where`` (the byte of the first token it was predicted from) and ``prefix`` say from which context, ``fed`` from
    how many tokens."""

    keys: list[tuple[int, int, int, int]]
    loss: NDArray[np.float64]
    scores: NDArray[np.float64]
    total: float
    where: NDArray[np.int64]
    prefix: NDArray[np.bool_]
    fed: NDArray[np.int64]

    @property
    def scored(self) -> NDArray[np.bool_]:
        return self.scores > 0

    def over(self, mask: NDArray[np.bool_]) -> float:
        """The mean loss of the scored tokens in ``mask``."""
        return float(self.loss[mask & self.scored].mean())


def _split_of(evaluation: Evaluation, number: str) -> str | None:
    """The part of the text that a number is of; None for all of it."""
    split, _, loss = number.partition("_")
    return split if loss == "loss" and any(row.split == split for row in evaluation.rows) else None


def part_of(evaluation: Evaluation, number: str) -> Evaluation:
    """The evaluation of that part alone."""
    only = _split_of(evaluation, number)
    return msgspec.structs.replace(evaluation, rows=[r for r in evaluation.rows if only is None or r.split == only])


def side_of(evaluation: Evaluation, number: str, overwrites_first: bool) -> Side:
    """The tokens that ``number`` is of; ``overwrites_first`` as the evaluation's protocol says it of itself."""
    only = _split_of(evaluation, number)
    overwritten = overwrites_first and evaluation.model.adds_bos
    # By number, not by name: the same text may lie in files of two names.
    documents = {name: number for number, name in enumerate(dict.fromkeys(row.id for row in evaluation.rows))}
    parts = [
        _row(row, (documents[row.id], at), overwritten, only is None or row.split == only)
        for row, at in zip(evaluation.rows, _tokens_before(evaluation), strict=True)
    ]
    scores = np.concatenate([p.scores for p in parts])
    loss_of = np.concatenate([p.loss for p in parts])
    scored = scores > 0
    return Side(
        keys=[key for p in parts for key in p.keys],
        loss=loss_of,
        scores=scores,
        total=float((loss_of * scores)[scored].sum() / scores.sum()) if scored.any() else math.nan,
        where=np.concatenate([p.where for p in parts]),
        prefix=np.concatenate([p.prefix for p in parts]),
        fed=np.concatenate([p.fed for p in parts]),
    )


def _tokens_before(evaluation: Evaluation) -> list[int]:
    """For each row, how many tokens of its document stand in the rows before it."""
    seen: dict[str, int] = {}
    found = []
    for row in evaluation.rows:
        found.append(seen.get(row.id, 0))
        seen[row.id] = found[-1] + row.tokens
    return found


def _row(row: RowInfo, place: tuple[int, int], overwritten: bool, wanted: bool) -> Side:
    """``place`` is the document's number and how many tokens of it stand before this row."""
    kept = row.tokenized
    if kept is None:
        raise RuntimeError("explain() refuses reports without the losses of single tokens")
    tokens = len(kept.ids)
    windows = list(zip(kept.first, kept.size, strict=True)) if wanted else []
    total, count = token_sums(tokens, windows, np.asarray(kept.nll if wanted else [], dtype=np.float32))
    starts, ends = kept.byte_starts, kept.byte_ends
    offset = row.offset
    if starts is None or ends is None:  # by number, not by byte
        starts, ends, offset = list(range(tokens)), list(range(1, tokens + 1)), place[1]
    own = [offset + at for at in starts]
    where, fed = np.full(tokens, -1, dtype=np.int64), np.zeros(tokens, dtype=np.int64)
    prefix = np.zeros(tokens, dtype=bool)
    for first, size, context in zip(kept.first, kept.size, kept.context, strict=True) if wanted else ():
        begin = first - context
        special = begin < 0 or overwritten
        real = begin + 1 if special else begin
        where[first : first + size] = own[real]
        prefix[first : first + size] = special
        fed[first : first + size] = np.arange(first, first + size) - real
    with np.errstate(invalid="ignore"):
        loss = total / count
    keys = [(place[0], at, offset + end, i) for at, end, i in zip(own, ends, kept.ids, strict=True)]
    return Side(keys, loss, count, math.nan, where, prefix, fed)
