"""What the page says of each evaluation: cards, sentences, charts with their tables, lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evalgpt.report.detail import RowDetail
from evalgpt.report.document import Evaluation, describe_protocol
from evalgpt.studies.compare.alignment import tokenized
from evalgpt.views.page.bins import Bin, Track, along, by_context, calibrate, distribution, track_of
from evalgpt.views.page.cells import chapters_of, shown
from evalgpt.views.page.charts import along_chart, calibration_chart, context_chart, distribution_chart
from evalgpt.views.page.map import Map, token_map
from evalgpt.views.page.parts import Card, Chart, Rows, interval_of, span_of
from evalgpt.views.wording.evaluation import sentences

__all__ = ["EvaluationView", "evaluation_view"]


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
    contexts, losses, text = by_context(track), distribution(np.maximum(track.loss, 0.0)), along(track)
    unit = "bits per byte" if track.places else "nats per token"
    numbered = f"; numbered lines are its {len(starts)} headings" if starts else ""
    return [
        Chart(
            "Loss along the text",
            f"Mean over {_each(text)} with its 95 % band{numbered}.",
            along_chart([text], track.places, starts, "Loss along the text; the table below has the numbers"),
            ("from", "to", "tokens", unit, "95 % interval"),
            [(f"{b.begin:,.0f}", f"{b.end:,.0f}", f"{b.count:,}", f"{b.value:.4f}", interval_of(b)) for b in text],
            wide=True,
        ),
        Chart(
            "Loss by position in the context",
            "Mean over the tokens that were predicted from as many tokens, with its 95 % band.",
            context_chart([contexts], "Loss by position in the context; the table below has the numbers"),
            ("tokens before it", "scores", "nats per token", "95 % interval"),
            [(span_of(b), f"{b.count:,}", f"{b.value:.4f}", interval_of(b)) for b in contexts],
        ),
        Chart(
            "How losses are distributed",
            f"Over {len(track.loss):,} tokens. Half of them cost less than {_median(track):.2f} nats.",
            distribution_chart(
                losses,
                float(track.loss.mean()),
                "Distribution of losses; the table below has the numbers",
                ("loss, nats", "% of tokens"),
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
