"""Paired comparison of evaluations of the same text: token by token, or by bytes where the tokenizers differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import UsageError
from evalgpt.metrics import token_bytes, token_sums
from evalgpt.report import Evaluation, RowInfo, Tokenized, describe_protocol, keeps_tokens
from evalgpt.statistics import Estimate, ratio_estimate
from evalgpt.verdicts import Verdict

__all__ = [
    "SCHEMA",
    "Comparison",
    "Comparisons",
    "Decision",
    "Divergence",
    "Side",
    "Spans",
    "align",
    "compare",
    "pairs_of",
    "summarise",
]

SCHEMA: Final = "evalgpt.comparison/1"

EXPLAIN = ", or see what the difference makes with evalgpt explain-difference"

PERCENTILES = (1, 5, 50, 90, 95, 99)


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two, over what both scored. ``loss`` and ``perplexity`` are per token of its own tokenizer;
    ``verdicts`` name what looks wrong with its evaluation."""

    model: str
    fingerprint: str
    tokenizer: str
    tokens: int
    loss: float
    perplexity: float | None
    bits_per_byte: Estimate
    left_out_bytes: int
    verdicts: list[Verdict] = []


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """KL(baseline || candidate) per scored token, nats, and how often both hold the same token likeliest."""

    mean: Estimate
    percentiles: dict[str, float]
    largest: float
    same_top_token: float
    tokens: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Why a comparison stopped: ``sign`` is -1 where the candidate is better on the whole text, 1 where it is worse, 0
    where all windows did not tell; ``interval`` bounds the whole text's difference, nats per token."""

    seed: int
    windows: int
    of: int
    level: float
    sign: int
    interval: tuple[float | None, float | None]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``candidate`` against ``baseline`` on one text; differences are candidate minus baseline, so that below zero the
    candidate is better.

    ``unit`` is ``token`` for one tokenizer, else ``span``: the shortest stretches of text whose ends are ends of tokens
    for both. ``loss_difference`` (nats per token) is None for spans. ``candidate_better`` and ``baseline_better`` are
    shares of the compared bytes.
    """

    task: str
    protocol: str
    baseline: Side
    candidate: Side
    unit: str
    units: int
    bytes: int
    bits_per_byte_difference: Estimate
    loss_difference: Estimate | None
    candidate_better: float
    baseline_better: float
    divergence: Divergence | None = None
    decision: Decision | None = None


class Comparisons(msgspec.Struct, frozen=True, kw_only=True):
    """What ``evalgpt compare`` writes: every candidate against the first model, on every text."""

    schema: Literal["evalgpt.comparison/1"] = SCHEMA
    level: float = 0.95
    comparisons: list[Comparison]


@dataclass(frozen=True, slots=True)
class Spans:
    """Per unit: both losses in nats, bytes, tokens of each side, and the document's number."""

    nll: tuple[NDArray[np.float64], NDArray[np.float64]]
    tokens: tuple[NDArray[np.float64], NDArray[np.float64]]
    bytes: NDArray[np.float64]
    document: NDArray[np.int64]


def pairs_of(evaluations: Sequence[Evaluation]) -> tuple[list[tuple[Evaluation, Evaluation]], list[str]]:
    """(baseline, candidate) of every text, the baseline being the first evaluation's model; and texts left out.

    Raises:
        UsageError: there is nothing to compare with the first; the message names the field that differs.
    """
    if len(evaluations) < 2:
        raise UsageError(f"a comparison needs two evaluations or more, and there is {len(evaluations)}")
    found: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        found.setdefault((evaluation.task.sha256, describe_protocol(evaluation)), []).append(evaluation)
    first = (evaluations[0].model.spec, evaluations[0].model.fingerprint)
    pairs: list[tuple[Evaluation, Evaluation]] = []
    left_out: list[str] = []
    for (_, protocol), group in found.items():
        baseline = next((e for e in group if (e.model.spec, e.model.fingerprint) == first), None)
        others = [e for e in group if e is not baseline]
        if baseline is None or not others:
            left_out.append(f"{group[0].task.spec}, protocol {protocol}, only of {group[0].model.spec}")
        else:
            pairs += [(baseline, other) for other in others]
    if not pairs:
        _check_same(*evaluations[:2])
        raise UsageError(f"no evaluation is of a text of {evaluations[0].model.spec} under the same protocol")
    return pairs, left_out


def compare(baseline: Evaluation, candidate: Evaluation) -> Comparison:
    """Compare two evaluations of one text under one protocol.

    Raises:
        UsageError: they cannot be compared; the message names the field that differs, or what is missing.
    """
    _check_same(baseline, candidate)
    same = _same_tokens(baseline, candidate)
    spans = align(baseline, candidate, same)
    if not len(spans.bytes):
        raise UsageError("no stretch of the text was scored by both, so there is nothing to compare")
    bits = [nll / math.log(2) for nll in spans.nll]
    difference = bits[1] - bits[0]
    total = float(spans.bytes.sum())
    sides = [
        _side(e, k, spans, ratio_estimate(bits[k], spans.bytes, spans.document))
        for k, e in enumerate((baseline, candidate))
    ]
    return Comparison(
        task=baseline.task.spec,
        protocol=describe_protocol(baseline),
        baseline=sides[0],
        candidate=sides[1],
        unit="token" if same else "span",
        units=len(difference),
        bytes=int(total),
        bits_per_byte_difference=ratio_estimate(difference, spans.bytes, spans.document),
        loss_difference=(
            ratio_estimate(spans.nll[1] - spans.nll[0], np.ones(len(difference)), spans.document) if same else None
        ),
        candidate_better=float(spans.bytes[difference < 0].sum()) / total,
        baseline_better=float(spans.bytes[difference > 0].sum()) / total,
    )


def summarise(kl: NDArray[np.float64], same_top: NDArray[np.bool_], document: NDArray[np.int64]) -> Divergence:
    """Summarise KL divergences per token (nats), in text order."""
    order = np.argsort(document, kind="stable")
    kl, same_top, document = kl[order], same_top[order], document[order]
    points = np.percentile(kl, PERCENTILES)
    return Divergence(
        mean=ratio_estimate(kl, np.ones(len(kl)), document),
        percentiles={str(p): float(value) for p, value in zip(PERCENTILES, points, strict=True)},
        largest=float(kl.max()),
        same_top_token=float(same_top.mean()),
        tokens=len(kl),
    )


def _check_same(a: Evaluation, b: Evaluation) -> None:
    def refuse(field: str, one: object, other: object, advice: str = "") -> None:
        raise UsageError(f"these cannot be compared: {field} is {one} against {other}{advice}")

    if a.task.sha256 != b.task.sha256:
        refuse("task.sha256", a.task.sha256[:12], b.task.sha256[:12], ", so the texts differ")
    if a.protocol.name != b.protocol.name:
        refuse("protocol.name", a.protocol.name, b.protocol.name, f"; run both with the same --protocol{EXPLAIN}")
    for key in sorted({*a.protocol.settings, *b.protocol.settings}):
        one, other = a.protocol.settings.get(key), b.protocol.settings.get(key)
        if one != other:
            refuse(f"protocol.settings.{key}", one, other, f"; give both runs the same {key}{EXPLAIN}")
    names = [[(row.split, row.sha256) for row in e.rows] for e in (a, b)]
    if names[0] != names[1]:
        refuse("rows", f"{len(a.rows)} texts", f"{len(b.rows)} others")
    for e in (a, b):
        if not keeps_tokens(e):
            raise UsageError(f"the report of {e.model.spec} has no losses of single tokens; run it with --tokens")


def _same_tokens(a: Evaluation, b: Evaluation) -> bool:
    """Whether both read the same ids everywhere; then they must have scored the same of them."""
    rows = list(zip(_tokenized(a), _tokenized(b), strict=True))
    if any(x.ids != y.ids or x.byte_ends != y.byte_ends for x, y in rows):
        return False
    for number, (x, y) in enumerate(rows):
        if (x.first, x.size) != (y.first, y.size):
            raise UsageError(
                f"these cannot be compared: the scored spans differ in rows[{number}] ({a.rows[number].id}), though "
                f"the tokens are the same; was one run with another prefix?"
            )
    return True


def _tokenized(evaluation: Evaluation) -> list[Tokenized]:
    return [row.tokenized for row in evaluation.rows if row.tokenized is not None]


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
    for row, x, y in zip(a.rows, _tokenized(a), _tokenized(b), strict=True):
        length = row.bytes + row.context_bytes
        one, other = (_per_token(x), _per_token(y))
        if same:
            edges = np.arange(len(x.ids) + 1)
            ends = (edges[1:], edges[1:])
            widths = _own_bytes(x, row)
        else:
            _need_spans(x, a)
            _need_spans(y, b)
            edges = np.flatnonzero(_cuts(x, length) & _cuts(y, length))
            ends = (np.asarray(x.byte_ends), np.asarray(y.byte_ends))
            widths = np.diff(np.maximum(edges, row.context_bytes)).astype(np.float64)
        parts.append(_sum_over(edges, ends, (one, other), widths, documents[row.group or row.id]))
    document = np.concatenate([p.document for p in parts])
    order = np.argsort(document, kind="stable")

    def joined(column: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate(column)[order]

    return Spans(
        nll=(joined([p.nll[0] for p in parts]), joined([p.nll[1] for p in parts])),
        tokens=(joined([p.tokens[0] for p in parts]), joined([p.tokens[1] for p in parts])),
        bytes=joined([p.bytes for p in parts]),
        document=document[order],
    )


def _sum_over(
    edges: NDArray[np.int64],
    ends: tuple[NDArray[np.int64], NDArray[np.int64]],
    losses: tuple[NDArray[np.float64], NDArray[np.float64]],
    widths: NDArray[np.float64],
    document: int,
) -> Spans:
    """Sums per stretch between ``edges``; only stretches of which both sides scored every token, and had one."""
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
        document=np.full(int(keep.sum()), document, dtype=np.int64),
    )


def _per_token(tokenized: Tokenized) -> NDArray[np.float64]:
    """NLL per token, nats: NaN where unscored, the mean where scored more than once."""
    windows = zip(tokenized.first, tokenized.size, strict=True)
    total, count = token_sums(len(tokenized.ids), windows, tokenized.nll)
    with np.errstate(invalid="ignore"):
        return total / count


def _cuts(tokenized: Tokenized, length: int) -> NDArray[np.bool_]:
    """bool [length + 1]: the byte positions at which no token is cut in two."""
    inside = np.zeros(length + 2, dtype=np.int64)
    starts, ends = np.asarray(tokenized.byte_starts), np.asarray(tokenized.byte_ends)
    wide = ends > starts
    np.add.at(inside, starts[wide] + 1, 1)
    np.add.at(inside, ends[wide], -1)
    return np.asarray(np.cumsum(inside)[: length + 1] == 0)


def _own_bytes(tokenized: Tokenized, row: RowInfo) -> NDArray[np.float64]:
    spans = None
    if tokenized.byte_starts is not None and tokenized.byte_ends is not None:
        spans = (tokenized.byte_starts, tokenized.byte_ends)
    return token_bytes(len(tokenized.ids), spans, row.context_bytes, row.bytes)


def _need_spans(tokenized: Tokenized, evaluation: Evaluation) -> None:
    if tokenized.byte_starts is None or tokenized.byte_ends is None:
        raise UsageError(
            f"the tokenizers differ and that of {evaluation.model.spec} cannot tell where its tokens lie in the text, "
            f"so there is nothing to align"
        )


def _side(evaluation: Evaluation, k: int, spans: Spans, bits: Estimate) -> Side:
    tokens = float(spans.tokens[k].sum())
    loss = float(spans.nll[k].sum()) / tokens
    scored: Any = evaluation.metrics.bytes
    return Side(
        model=evaluation.model.spec,
        fingerprint=evaluation.model.fingerprint,
        tokenizer=str(evaluation.model.tokenizer.get("name", "unknown")),
        tokens=int(tokens),
        loss=loss,
        perplexity=math.exp(loss) if loss < 709 else None,
        bits_per_byte=bits,
        left_out_bytes=0 if scored is None else max(int(scored) - int(spans.bytes.sum()), 0),
        verdicts=evaluation.verdicts,
    )
