"""The table and the sentences that a person reads."""

from __future__ import annotations

from collections.abc import Sequence

from evalgpt.report.document import Evaluation, describe_protocol
from evalgpt.report.metrics import Metrics
from evalgpt.views.terminal.console import console_for, print_rows, say
from evalgpt.views.wording.evaluation import perplexity_text, sentences

__all__ = ["print_evaluations"]


HEADERS = ("model", "task", "tokens", "loss", "±", "perplexity", "bits/byte", "±")


def print_evaluations(evaluations: Sequence[Evaluation], *, err: bool = False) -> None:
    """Print one table, then for each evaluation what its perplexity means and what was scored."""
    console = console_for(err=err)
    print_rows(console, HEADERS, _rows(evaluations), left=2)
    for evaluation in evaluations:
        heading = f"{evaluation.model.spec} on {evaluation.task.spec}, protocol {describe_protocol(evaluation)}"
        say(console, heading)
        for sentence in sentences(evaluation):
            say(console, sentence, indent=2)


def _rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    rows = []
    for e in evaluations:
        rows.append((e.model.spec, e.task.spec, *_numbers(e.metrics)))
        rows += [("", f"  {split}", *_numbers(metrics)) for split, metrics in e.splits.items()]
    return rows


def _numbers(metrics: Metrics) -> tuple[str, ...]:
    perplexity = ">1e308" if metrics.perplexity is None else perplexity_text(metrics.perplexity)
    bits = "-" if metrics.bits_per_byte is None else _nats(metrics.bits_per_byte)
    spread = metrics.uncertainty
    around = ("-", "-") if spread is None else (_half(spread.loss), _half(spread.bits_per_byte))
    return str(metrics.scores), _nats(metrics.loss), around[0], perplexity, bits, around[1]


def _half(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else _nats((interval[1] - interval[0]) / 2)


def _nats(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e9 else f"{value:.4g}"
