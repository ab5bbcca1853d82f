"""The table and the sentences that a person reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from evalgpt.metrics import Metrics
from evalgpt.report import Evaluation

__all__ = ["print_evaluations", "sentences"]

PIPE_WIDTH = 160
"""Columns where the output is no terminal: nothing is wrapped for a reader that is a program."""


def print_evaluations(evaluations: Sequence[Evaluation], *, err: bool = False) -> None:
    """Print one table, then for each evaluation what its perplexity means and what was scored."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    console.print(_table(evaluations))
    for evaluation in evaluations:
        console.print(f"{evaluation.model.spec} on {evaluation.task.spec}, protocol {_protocol(evaluation)}")
        for sentence in sentences(evaluation):
            console.print(f"  {sentence}", soft_wrap=True)


def _table(evaluations: Sequence[Evaluation]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("tokens", "loss", "perplexity", "bits/byte"):
        table.add_column(name, justify="right", no_wrap=True)
    for e in evaluations:
        table.add_row(e.model.spec, e.task.spec, *_numbers(e.metrics))
        for split, metrics in e.splits.items():
            table.add_row("", f"  {split}", *_numbers(metrics))
    return table


def _numbers(metrics: Metrics) -> tuple[str, str, str, str]:
    perplexity = "inf" if metrics.perplexity is None else _perplexity(metrics.perplexity)
    bits = "-" if metrics.bits_per_byte is None else f"{metrics.bits_per_byte:.4f}"
    return str(metrics.scores), f"{metrics.loss:.4f}", perplexity, bits


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1e9 else f"{value:.4g}"


def _protocol(evaluation: Evaluation) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in evaluation.protocol.settings.items())
    return f"{evaluation.protocol.name} ({settings})"


def sentences(evaluation: Evaluation) -> Iterator[str]:
    """What the numbers of ``evaluation`` say, in words."""
    yield _in_words(evaluation.metrics.perplexity, evaluation.model.vocab_size)
    if evaluation.peer:
        numbers = ", ".join(f"{_label(key)} {value:.5f}" for key, value in evaluation.peer.items())
        yield f"as {evaluation.protocol.source} counts it: {numbers}"
    for key, value in evaluation.task_metrics.items():
        yield f"{_label(key)}: {value:.5g}"
    yield _ledger(evaluation)
    yield from evaluation.notes


def _in_words(perplexity: float | None, vocabulary: int) -> str:
    if perplexity is None or perplexity > 1e15:
        return f"less certain than a guess among all {vocabulary:,} tokens could ever be"
    among = f"{perplexity:,.0f}" if perplexity >= 100 else f"{perplexity:.3g}"
    if perplexity > vocabulary:
        return f"as uncertain as choosing among {among} tokens: worse than guessing among all {vocabulary:,}"
    return f"as uncertain as choosing among {among} of {vocabulary:,} tokens"


def _ledger(evaluation: Evaluation) -> str:
    ledger = evaluation.ledger
    parts = [
        f"{count} {what}"
        for count, what in (
            (ledger.given, "given as context"),
            (ledger.head, "unscored at the head"),
            (ledger.inside, "unscored inside"),
            (ledger.tail, "unscored at the tail"),
            (ledger.twice, "scored more than once"),
        )
        if count
    ]
    line = f"{ledger.scored} of {ledger.tokens} tokens scored"
    if parts:
        line += f" ({', '.join(parts)})"
    if ledger.context is not None:
        c = ledger.context
        line += f"; each after {c.smallest} to {c.largest} tokens, {c.median:g} in the median"
    return f"{line}; {evaluation.timing.tokens_per_second:,.0f} tokens/s"


def _label(key: str) -> str:
    return key.replace("_", " ")
