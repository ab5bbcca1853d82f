"""What the page says of each evaluation and each comparison: cards, sentences, charts with their tables, lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from evalgpt.alignment import tokenized
from evalgpt.compare import Comparison, compare
from evalgpt.detail import RowDetail
from evalgpt.page_charts import along_chart, calibration_chart, context_chart, distribution_chart
from evalgpt.page_data import Bin, Track, along, by_context, calibrate, distribution, track_of
from evalgpt.page_map import Map, difference_map, token_map
from evalgpt.page_text import chapters_of, shown
from evalgpt.render import sentences
from evalgpt.render_compare import sentences_of
from evalgpt.report import Evaluation, describe_protocol

__all__ = ["Card", "Chart", "ComparisonView", "EvaluationView", "comparison_view", "evaluation_view"]

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Card:
    """One number: what it is, the number, its unit, its interval or whatever stands below it."""

    name: str
    value: str
    unit: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, what it shows, and the same numbers as a table. ``keys`` name the lines where there are two."""

    title: str
    about: str
    drawing: Markup
    headers: tuple[str, ...]
    rows: Rows
    wide: bool = False
    keys: tuple[str, ...] = ()


@dataclass(slots=True)
class EvaluationView:
    """Everything the page shows of one evaluation; ``missing`` says what it cannot show, and why."""

    anchor: str
    evaluation: Evaluation
    protocol: str
    cards: list[Card]
    sentences: list[str]
    warnings: list[str]
    ledger: Rows
    contexts: Rows
    splits: Rows
    track: Track | None = None
    map: Map | None = None
    charts: list[Chart] = field(default_factory=list)
    chapters: Rows = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


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


def evaluation_view(evaluation: Evaluation, details: Mapping[int, RowDetail], anchor: str) -> EvaluationView:
    """The view of one evaluation; ``details`` are by row."""
    said = list(sentences(evaluation))
    view = EvaluationView(
        anchor=anchor,
        evaluation=evaluation,
        protocol=describe_protocol(evaluation),
        cards=_cards(evaluation),
        sentences=[s for s in said if not s.startswith("! ")],
        warnings=[s[2:] for s in said if s.startswith("! ")],
        ledger=_ledger(evaluation),
        contexts=_contexts(evaluation),
        splits=_splits(evaluation),
    )
    track = track_of(evaluation)
    if track is None:
        view.missing.append(
            "The report keeps no losses of single tokens, so there is no text and there are no charts to show: "
            "run it without --no-tokens."
        )
        return view
    view.track = track
    view.map = token_map(evaluation, track, details, anchor)
    starts, view.chapters = _chapters(evaluation, track)
    view.charts = _charts(evaluation, track, starts)
    calibration = _calibration(details)
    if calibration is not None:
        view.charts.append(calibration)
    view.missing += _missing(evaluation, view.map, bool(details), calibration is not None)
    return view


def _missing(evaluation: Evaluation, found: Map, detail: bool, calibrated: bool) -> list[str]:
    missing = []
    if any(kept.byte_starts is None for kept in tokenized(evaluation)):
        missing.append("The tokenizer cannot tell where its tokens lie in the text, so they are shown by their ids.")
    elif not found.words:
        missing.append("The report does not keep the text, so tokens are shown by their ids; run it again to have it.")
    if not detail:
        missing.append(
            "Ranks, entropies, the likeliest alternatives and the calibration curve need a run with --detail."
        )
    elif not calibrated:
        missing.append("The calibration curve needs the likeliest tokens: run with --detail and alternatives kept.")
    return missing


def _cards(evaluation: Evaluation) -> list[Card]:
    m, spread, ledger = evaluation.metrics, evaluation.metrics.uncertainty, evaluation.ledger
    level = "" if spread is None else f"{spread.level:.0%}: "
    loss = "" if spread is None else f"{level}{spread.loss[0]:.4f} to {spread.loss[1]:.4f}"
    perplexity = "" if spread is None else f"{level}{_number(spread.perplexity[0])} to {_number(spread.perplexity[1])}"
    bits = spread.bits_per_byte if spread is not None else None
    cards = [
        Card("loss", f"{m.loss:.4f}", "nats per token", loss or "too few tokens for an interval"),
        Card("perplexity", _number(m.perplexity), "", perplexity),
    ]
    if m.bits_per_byte is not None:
        below = "" if bits is None else f"{level}{bits[0]:.4f} to {bits[1]:.4f}"
        cards.append(Card("bits per byte", f"{m.bits_per_byte:.4f}", "", below))
    cards.append(Card("tokens scored", f"{ledger.scored:,}", "", f"of {ledger.tokens:,}"))
    if ledger.context is not None:
        c = ledger.context
        cards.append(Card("context", f"{c.median:g}", "tokens, median", f"{c.smallest:,} to {c.largest:,}"))
    return cards


def _number(value: float | None) -> str:
    if value is None:
        return "beyond a float"
    return f"{value:,.2f}" if value < 1e7 else f"{value:.4g}"


def _ledger(evaluation: Evaluation) -> Rows:
    found = evaluation.ledger
    rows = [
        ("tokens in the text", found.tokens),
        ("given as context, not to be scored", found.given),
        ("scored", found.scored),
        ("unscored at the head", found.head),
        ("unscored inside", found.inside),
        ("unscored at the tail", found.tail),
        ("of the scored, more than once", found.twice),
        ("scores in all", found.scores),
        ("pieces of text", found.pieces),
        ("of them without a score", found.unscored_pieces),
    ]
    return [(name, f"{count:,}") for name, count in rows]


def _contexts(evaluation: Evaluation) -> Rows:
    found = evaluation.ledger.context
    if found is None:
        return []
    return [
        (f"{a:,}" if a == b else f"{a:,} to {b:,}", f"{n:,}", f"{n / evaluation.ledger.scores:.1%}")
        for a, b, n in found.histogram
    ]


def _splits(evaluation: Evaluation) -> Rows:
    return [
        (name, f"{m.scores:,}", f"{m.loss:.4f}", _number(m.perplexity), _bits(m.bits_per_byte))
        for name, m in evaluation.splits.items()
    ]


def _bits(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _chapters(evaluation: Evaluation, track: Track) -> tuple[list[float], Rows]:
    """Where chapters begin along the text, and what each cost."""
    if not track.places:
        return [], []
    names: list[tuple[str, float]] = []
    before = 0
    for row, kept in zip(evaluation.rows, tokenized(evaluation), strict=True):
        names += [(chapter.title, float(before + chapter.at)) for chapter in chapters_of(row, kept)]
        before += row.bytes
    rows: Rows = []
    starts: list[float] = []
    for number, (title, begin) in enumerate(names):
        end = names[number + 1][1] if number + 1 < len(names) else math.inf
        mask = (track.at >= begin) & (track.at < end)
        starts.append(begin)
        if not mask.any() or not track.size[mask].sum():
            rows.append((str(number + 1), shown(title), "0", "", "", ""))
            continue
        loss = float(track.loss[mask].mean())
        bits = float(track.loss[mask].sum() / track.size[mask].sum() / math.log(2))
        cells = f"{int(mask.sum()):,}", f"{loss:.4f}", _number(math.exp(min(loss, 700))), f"{bits:.4f}"
        rows.append((str(number + 1), shown(title), *cells))
    return starts, rows


def _charts(evaluation: Evaluation, track: Track, starts: Sequence[float]) -> list[Chart]:
    contexts, losses, text = by_context(track), distribution(track), along(track)
    unit = "bits per byte" if track.places else "nats per token"
    numbered = f"; numbered lines are its {len(starts)} headings" if starts else ""
    return [
        Chart(
            "Loss along the text",
            f"Mean over {_each(text)} with its 95 % band{numbered}.",
            along_chart([text], track.places, starts, "Loss along the text; the table below has the numbers"),
            ("from", "to", "tokens", unit, "95 % interval"),
            [(f"{b.begin:,.0f}", f"{b.end:,.0f}", f"{b.count:,}", f"{b.value:.4f}", _interval(b)) for b in text],
            wide=True,
        ),
        Chart(
            "Loss by position in the context",
            "Mean over the tokens that were predicted from as many tokens, with its 95 % band.",
            context_chart([contexts], "Loss by position in the context; the table below has the numbers"),
            ("tokens before it", "scores", "nats per token", "95 % interval"),
            [(_span(b), f"{b.count:,}", f"{b.value:.4f}", _interval(b)) for b in contexts],
        ),
        Chart(
            "How losses are distributed",
            f"Over {len(track.loss):,} tokens. Half of them cost less than {_median(track):.2f} nats.",
            distribution_chart(
                losses, float(track.loss.mean()), "Distribution of losses; the table below has the numbers"
            ),
            ("nats from", "to", "tokens", "share"),
            [(f"{b.begin:g}", f"{b.end:g}", f"{b.count:,}", f"{b.value:.2%}") for b in losses],
        ),
    ]


def _each(bins: Sequence[Bin]) -> str:
    return f"{len(bins)} stretches of about {bins[0].count:,} tokens" if len(bins) > 1 else "the whole text"


def _median(track: Track) -> float:
    ordered = sorted(track.loss.tolist())
    return float(ordered[len(ordered) // 2])


def _span(found: Bin) -> str:
    return f"{found.begin:,.0f}" if found.begin == found.end else f"{found.begin:,.0f} to {found.end:,.0f}"


def _interval(found: Bin) -> str:
    return "" if found.low is None or found.high is None else f"{found.low:.4f} to {found.high:.4f}"


def _calibration(details: Mapping[int, RowDetail]) -> Chart | None:
    found = calibrate(details)
    if found is None:
        return None
    return Chart(
        "Calibration of the first choice",
        f"The likeliest token was right {found.accuracy:.1%} of the time. Expected calibration error "
        f"{found.error:.4f}; the dashed line is a perfectly calibrated model, bars are 95 % intervals.",
        calibration_chart(found, "Calibration of the first choice; the table below has the numbers"),
        ("probability given", "scores", "mean of it", "right", "95 % interval"),
        [
            (
                f"{b.begin:.0%} to {b.end:.0%}",
                f"{b.count:,}",
                f"{p:.1%}",
                f"{b.value:.1%}",
                f"{b.low:.1%} to {b.high:.1%}",
            )
            for b, p in zip(found.bins, found.predicted, strict=True)
        ],
    )


def comparison_view(a: Evaluation, b: Evaluation, tracks: Sequence[Track | None], anchor: str) -> ComparisonView:
    """The view of ``b`` against ``a``.

    Raises:
        UsageError: they cannot be compared; the message says why.
    """
    found = compare(a, b)
    view = ComparisonView(anchor, a.model.spec, b.model.spec, found, _gap_cards(found), [], [])
    view.sentences = [sentence.strip() for sentence in sentences_of(found)]
    x, y = tracks
    if x is not None and y is not None and x.places and y.places:
        view.charts = _two_charts(x, y, (view.a, view.b))
        view.map = difference_map(a, b, anchor)
    if view.map is None or not view.map.words:
        view.map = None
        view.missing.append("The map of the differences needs the text, and tokenizers that tell where tokens lie.")
    return view


def _gap_cards(found: Comparison) -> list[Card]:
    gap, loss = found.bits_per_byte_difference, found.loss_difference
    cards = [Card("difference", f"{gap.value:+.4f}", "bits per byte", _bounds(gap))]
    if loss is not None:
        cards.append(Card("difference", f"{loss.value:+.4f}", "nats per token", _bounds(loss)))
    if gap.p_value is not None:
        cards.append(Card("p", "< 0.0001" if gap.p_value < 1e-4 else f"{gap.p_value:.4f}", "", "two-sided"))
    cards.append(Card("candidate better", f"{found.candidate_better:.1%}", "of the bytes"))
    cards.append(Card("baseline better", f"{found.baseline_better:.1%}", "of the bytes"))
    return cards


def _bounds(found: Any) -> str:
    if found.low is None or found.high is None:
        return "too short for an interval"
    return f"{found.level:.0%}: {found.low:+.4f} to {found.high:+.4f}"


def _two_charts(x: Track, y: Track, names: tuple[str, str]) -> list[Chart]:
    """Both along the text, over the same stretches of it."""
    first = along(x)
    starts = [b.begin for b in first]
    one, other = along(x, starts), along(y, starts)
    ends = {b.begin: b for b in other}
    rows = []
    for b in one:
        near = min(ends, key=lambda at: abs(at - b.begin))
        rows.append((f"{b.begin:,.0f}", f"{b.end:,.0f}", f"{b.value:.4f}", f"{ends[near].value:.4f}",
                     f"{ends[near].value - b.value:+.4f}"))  # fmt: skip
    contexts = [by_context(x), by_context(y)]
    return [
        Chart(
            "Both along the text",
            "Mean over the same stretches, with 95 % bands.",
            along_chart([one, other], True, (), "Both models along the text; the table below has the numbers"),
            ("from byte", "to", "baseline", "candidate", "difference"),
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
                (name, _span(b), f"{b.count:,}", f"{b.value:.4f}", _interval(b))
                for name, bins in zip(("baseline", "candidate"), contexts, strict=True)
                for b in bins
            ],
            keys=names,
        ),
    ]
