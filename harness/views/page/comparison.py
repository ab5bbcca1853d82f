"""What the page says of two evaluations of one text: which is better, by how much, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evalgpt.report.document import Evaluation
from evalgpt.report.statistics import Estimate
from evalgpt.studies.compare.alignment import Spans, align
from evalgpt.studies.compare.comparison import Comparison, compare
from evalgpt.views.page.bins import Track, along, by_context, distribution
from evalgpt.views.page.charts import along_chart, context_chart, distribution_chart
from evalgpt.views.page.map import Map, difference_map
from evalgpt.views.page.parts import Card, Chart, Rows, interval_of, span_of
from evalgpt.views.wording.comparison import sentences_of

__all__ = ["ComparisonView", "comparison_view"]


@dataclass(slots=True)
class ComparisonView:
    """Everything the page shows of ``b``, the candidate, against ``a``."""

    anchor: str
    a: str
    b: str
    comparison: Comparison
    cards: list[Card]
    sentences: list[str]
    charts: list[Chart]
    map: Map | None = None
    missing: list[str] = field(default_factory=list)


def comparison_view(a: Evaluation, b: Evaluation, tracks: Sequence[Track | None], anchor: str) -> ComparisonView:
    """The view of ``b`` against ``a``.

    Raises:
        UsageError: they cannot be compared; the message says why.
    """
    found = compare(a, b)
    view = ComparisonView(anchor, a.model.spec, b.model.spec, found, _gap_cards(found), [], [])
    view.sentences = [sentence.strip() for sentence in sentences_of(found)]
    sides = [track for track in tracks if track is not None and track.places]
    if len(sides) == 2:
        spans = align(a, b)
        if len(spans.bytes):
            view.charts = _two_charts(sides, _tracks(a, spans), (view.a, view.b))
        view.map = difference_map(a, b, spans, anchor)
    if view.map is None or not view.map.words:
        view.map = None
        view.missing.append("The map of the differences needs the text, and tokenizers that tell where tokens lie.")
    return view


def _gap_cards(found: Comparison) -> list[Card]:
    gap, loss = found.bits_per_byte_difference, found.loss_difference
    cards = [Card("difference", _signed(gap.value), "bits per byte", _bounds(gap))]
    if loss is not None:
        cards.append(Card("difference", _signed(loss.value), "nats per token", _bounds(loss)))
    if gap.p_value is not None:
        cards.append(Card("p", "< 0.0001" if gap.p_value < 1e-4 else f"{gap.p_value:.4f}", "", "two-sided"))
    cards.append(Card("candidate better", f"{found.candidate_better:.1%}", "of the bytes"))
    cards.append(Card("baseline better", f"{found.baseline_better:.1%}", "of the bytes"))
    return cards


def _bounds(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "too short for an interval"
    return f"{found.level:.0%}: {_signed(found.low)} to {_signed(found.high)}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _tracks(a: Evaluation, spans: Spans) -> list[Track]:
    """The aligned stretches of both sides and of their difference, in the order of the text."""
    before = np.cumsum([0, *(row.bytes for row in a.rows)])
    context = np.array([row.context_bytes for row in a.rows])
    at = before[spans.row] + np.maximum(spans.begin - context[spans.row], 0)
    order = np.lexsort((spans.begin, spans.row))
    none = np.zeros(0)
    return [
        Track(
            loss=loss[order],
            size=spans.bytes[order],
            at=at[order].astype(np.float64),
            row=spans.row[order],
            token=spans.begin[order],
            document=spans.document[order],
            nll=none,
            fed=none.astype(np.int64),
            owner=none.astype(np.int64),
            places=True,
        )
        for loss in (spans.nll[0], spans.nll[1], spans.nll[1] - spans.nll[0])
    ]


def _two_charts(sides: Sequence[Track], aligned: Sequence[Track], names: tuple[str, str]) -> list[Chart]:
    """Both along the text, over the same stretches of it, and by context."""
    one, other, gap = (along(track) for track in aligned)
    rows: Rows = [
        (f"{a.begin:,.0f}", f"{a.end:,.0f}", f"{a.value:.4f}", f"{b.value:.4f}", _signed(c.value), interval_of(c))
        for a, b, c in zip(one, other, gap, strict=True)
    ]
    contexts = [by_context(track) for track in sides]
    gaps = aligned[2].loss
    spread = distribution(gaps)
    return [
        Chart(
            "Both along the text",
            "Mean over the same stretches, with 95 % bands.",
            along_chart([one, other], True, (), "Both models along the text; the table below has the numbers"),
            ("from byte", "to", "baseline", "candidate", "difference", "95 % interval"),
            rows,
            wide=True,
            keys=names,
        ),
        Chart(
            "Both by position in the context",
            "Mean over the tokens that were predicted from as many tokens, with 95 % bands.",
            context_chart(contexts, "Both models by position in the context; the table below has the numbers"),
            ("model", "tokens before it", "scores", "nats per token", "95 % interval"),
            [
                (name, span_of(b), f"{b.count:,}", f"{b.value:.4f}", interval_of(b))
                for name, bins in zip(("baseline", "candidate"), contexts, strict=True)
                for b in bins
            ],
            keys=names,
        ),
        Chart(
            "How differences are distributed",
            f"Over {len(gaps):,} stretches; below zero the candidate is better.",
            distribution_chart(
                spread,
                float(gaps.mean()),
                "Distribution of the differences; the table below has the numbers",
                ("candidate minus baseline, nats", "% of stretches"),
            ),
            ("nats from", "to", "stretches", "share"),
            [(f"{b.begin:g}", f"{b.end:g}", f"{b.count:,}", f"{b.value:.2%}") for b in spread],
        ),
    ]
