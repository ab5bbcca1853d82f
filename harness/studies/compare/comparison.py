"""Paired comparison of evaluations of the same text: token by token, or by bytes where the tokenizers differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import UsageError
from evalgpt.report.document import Evaluation, describe_protocol, keeps_tokens
from evalgpt.report.repeats import fold_repeats
from evalgpt.report.statistics import Estimate, ratio_estimate
from evalgpt.report.verdicts import Verdict
from evalgpt.studies.compare.alignment import Spans, align, originals, tokenized

__all__ = ["SCHEMA", "Comparison", "Comparisons", "Decision", "Divergence", "Side", "compare", "pairs_of", "summarise"]


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
    where all windows did not tell; ``interval`` bounds the whole text's difference, nats per token. Every kind of
    window that matters is assumed to make up at least the share ``rarest`` of all; null in earlier documents."""

    seed: int
    windows: int
    of: int
    level: float
    sign: int
    interval: tuple[float | None, float | None]
    rarest: float | None = None


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
    command: list[str] = []
    level: float = 0.95
    comparisons: list[Comparison]


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
    columns = [*bits, difference, spans.nll[1] - spans.nll[0], spans.bytes, np.ones(len(difference))]
    place = (spans.row, spans.begin)
    (*values, size, units), document = fold_repeats(columns, spans.document, place, originals(baseline))
    sides = [_side(e, k, spans, ratio_estimate(values[k], size, document)) for k, e in enumerate((baseline, candidate))]
    return Comparison(
        task=baseline.task.spec,
        protocol=describe_protocol(baseline),
        baseline=sides[0],
        candidate=sides[1],
        unit="token" if same else "span",
        units=len(difference),
        bytes=int(total),
        bits_per_byte_difference=ratio_estimate(values[2], size, document),
        loss_difference=ratio_estimate(values[3], units, document) if same else None,
        candidate_better=float(spans.bytes[difference < 0].sum()) / total,
        baseline_better=float(spans.bytes[difference > 0].sum()) / total,
    )


def summarise(
    kl: NDArray[np.float64],
    same_top: NDArray[np.bool_],
    document: NDArray[np.int64],
    place: tuple[NDArray[np.int64], NDArray[np.int64]],
    originals: Sequence[int],
) -> Divergence:
    """Summarise KL divergences per token (nats), in text order; ``place`` and ``originals`` as for
    :func:`evalgpt.report.repeats.fold_repeats`."""
    order = np.argsort(document, kind="stable")
    kl, same_top, document = kl[order], same_top[order], document[order]
    place = (place[0][order], place[1][order])
    points = np.percentile(kl, PERCENTILES)
    (values, units), document = fold_repeats([kl, np.ones(len(kl))], document, place, originals)
    return Divergence(
        mean=ratio_estimate(values, units, document),
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
    rows = list(zip(tokenized(a), tokenized(b), strict=True))
    if any(x.ids != y.ids or x.byte_ends != y.byte_ends for x, y in rows):
        return False
    for number, (x, y) in enumerate(rows):
        if (x.first, x.size) != (y.first, y.size):
            raise UsageError(
                f"these cannot be compared: the scored spans differ in rows[{number}] ({a.rows[number].id}), though "
                f"the tokens are the same; was one run with another prefix?"
            )
    return True


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
