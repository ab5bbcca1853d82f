"""What the page says of a training run: its losses, what it wrote on the way, what it knows by heart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.studies.training.log import Evaluated, Training
from evalgpt.views.page.charts import learning_chart, plain_chart
from evalgpt.views.page.parts import Card, Chart, Rows

__all__ = ["TrainingView", "smoothed", "training_view"]


POINTS = 800
"""Points of a line; of more updates each point is the mean of several."""

STRETCHES = 40
"""Rows of the table of the updates."""


@dataclass(frozen=True, slots=True)
class TrainingView:
    """Everything the page shows of one training run."""

    anchor: str
    log: Training
    cards: list[Card]
    sentences: list[str]
    charts: list[Chart]
    headers: tuple[str, ...]
    evaluations: Rows
    settings: list[tuple[str, str]]
    shares: Rows = field(default_factory=list)


def training_view(log: Training, anchor: str) -> TrainingView:
    """The view of one run, whole or not."""
    headers, rows = _evaluations(log)
    known = log.memorised
    return TrainingView(
        anchor=anchor,
        log=log,
        cards=_cards(log),
        sentences=_sentences(log),
        charts=_charts(log),
        headers=headers,
        evaluations=rows,
        settings=[(k.replace("_", " "), "none" if v is None else str(v)) for k, v in _settings(log)],
        shares=[] if known is None else [(part, f"{share:.1%}") for part, share in known.share.items()],
    )


def _settings(log: Training) -> list[tuple[str, object]]:
    return list(msgspec.structs.asdict(log.settings).items())


def _cards(log: Training) -> list[Card]:
    done = len(log.updates.loss)
    cards = [Card("updates", f"{done:,}", "", f"of {log.total_updates:,}")]
    if log.evaluations:
        first, last = log.evaluations[0], log.evaluations[-1]
        cards += [
            Card("train loss", f"{last.train_loss:.4f}", "nats per token", f"from {first.train_loss:.4f}"),
            Card(
                "validation loss", f"{last.validation_loss:.4f}", "nats per token", f"from {first.validation_loss:.4f}"
            ),
        ]
    if log.best is not None:
        cards.append(
            Card("lowest validation loss", f"{log.best.validation_loss:.4f}", "", f"after {log.best.updates:,} updates")
        )
    return cards


def _sentences(log: Training) -> list[str]:
    found = []
    done = len(log.updates.loss)
    if done < log.total_updates:
        found.append(f"The run is not whole: {done:,} of {log.total_updates:,} updates are made.")
    if done:
        tokens = f" on {log.evaluations[-1].tokens_seen:,} tokens" if log.evaluations else ""
        found.append(f"{done:,} updates{tokens} in {log.updates.seconds[-1]:,.0f} s.")
    windows = ", ".join(f"{count:,} of the {part} part" for part, count in log.windows.items())
    found.append(f"Windows: {windows}.")
    if log.best is not None and log.evaluations and log.best.updates < log.evaluations[-1].updates:
        last = log.evaluations[-1]
        rise = last.validation_loss - log.best.validation_loss
        if rise >= 0.005:
            found.append(
                f"After update {log.best.updates:,} the validation loss rose again, by {rise:.4f} nats, while the "
                f"train loss ended at {last.train_loss:.4f}: the model goes on to learn this text by heart."
            )
    return found


def smoothed(values: Sequence[float]) -> tuple[NDArray[np.float64], int]:
    """The mean over a window centred on each value, cut at both ends, and the window's length: about a tenth of the
    values, odd. Float64 [n]."""
    x = np.asarray(values, np.float64)
    half = max(len(x) // 20, 1)
    total = np.concatenate([[0.0], np.cumsum(x)])
    low = np.maximum(np.arange(len(x)) - half, 0)
    high = np.minimum(np.arange(len(x)) + half + 1, len(x))
    return (total[high] - total[low]) / (high - low), 2 * half + 1


def _stretches(count: int, most: int) -> list[tuple[int, int]]:
    """At most ``most`` stretches of about equal length, as (first, after the last)."""
    edges = np.linspace(0, count, min(count, most) + 1).round().astype(int).tolist()
    return list(itertools.pairwise(edges))


def _thin(values: Sequence[float] | NDArray[np.float64], spans: Sequence[tuple[int, int]]) -> list[float]:
    return [float(np.mean(values[a:b])) for a, b in spans]


def _charts(log: Training) -> list[Chart]:
    updates, done = log.updates, len(log.updates.loss)
    spans = _stretches(done, POINTS)
    at = [(a + 1 + b) / 2 for a, b in spans]
    rows = _stretches(done, STRETCHES)
    smooth, window = smoothed(updates.loss) if done else (np.zeros(0), 0)
    marks = [[(e.updates, loss(e)) for e in log.evaluations] for loss in (_train, _validation)]
    about = "Train and validation loss as the harness measures them, without dropout"
    if done >= 3:
        about += (
            f"; the thin line is each update's own batch, with dropout, the broad one its mean over {window} updates"
        )
    charts = []
    if done or log.evaluations:
        charts.append(
            Chart(
                "Loss over the updates",
                about
                + (f". Each point of it is the mean of about {done // POINTS + 1} updates." if done > POINTS else "."),
                learning_chart(
                    (at, _thin(updates.loss, spans), _thin(smooth, spans) if done >= 3 else []),
                    marks,
                    "Loss over the updates; the table below has the numbers",
                ),
                ("updates", "mean loss of the batches", "lowest", "highest"),
                [(_span(a, b), *_of(updates.loss[a:b], "{:.4f}")) for a, b in rows],
                wide=True,
                legend="training",
            )
        )
    for title, name, values, form in (
        ("Learning rate", "learning rate", updates.learning_rate, "{:.3g}"),
        ("Norm of the gradient, before clipping", "norm of the gradient", updates.gradient_norm, "{:.3f}"),
    ):
        if done:
            charts.append(
                Chart(
                    title,
                    "At each update." if done <= POINTS else f"Mean of about {done // POINTS + 1} updates each.",
                    plain_chart(at, _thin(values, spans), name, f"{title}; the table below has the numbers"),
                    ("updates", "mean", "lowest", "highest"),
                    [(_span(a, b), *_of(values[a:b], form)) for a, b in rows],
                )
            )
    return charts


def _train(e: Evaluated) -> float:
    return e.train_loss


def _validation(e: Evaluated) -> float:
    return e.validation_loss


def _span(a: int, b: int) -> str:
    return f"{b:,}" if b == a + 1 else f"{a + 1:,} to {b:,}"


def _of(values: Sequence[float], form: str) -> tuple[str, str, str]:
    mean, low, high = float(np.mean(values)), min(values), max(values)
    return form.format(mean), form.format(low), form.format(high)


def _evaluations(log: Training) -> tuple[tuple[str, ...], Rows]:
    course = any(e.course_train_loss is not None for e in log.evaluations)
    headers = ["updates", "epoch", "tokens seen", "train loss", "validation loss", "train bits per byte",
               "validation bits per byte"]  # fmt: skip
    rows: Rows = []
    for e in log.evaluations:
        row = [f"{count:,}" for count in (e.updates, e.epoch, e.tokens_seen)]
        row += map(_known, (e.train_loss, e.validation_loss, e.train_bits_per_byte, e.validation_bits_per_byte))
        if course:
            row += ["" if x is None else f"{x:.4f}" for x in (e.course_train_loss, e.course_validation_loss)]
        rows.append(tuple(row))
    return (*headers, *(("course's train loss", "course's validation loss") if course else ())), rows


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
