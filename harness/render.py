"""The table and the sentences that a person reads."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from evalgpt.metrics import Metrics, Uncertainty
from evalgpt.report import Evaluation, describe_protocol
from evalgpt.specs import visible

__all__ = ["console_for", "print_evaluations", "sentences"]

NARROWEST = 90
"""Columns that a table of numbers needs."""

PIPE_WIDTH = 160
"""Columns where the output is no terminal: nothing is wrapped for a reader that is a program."""


def print_evaluations(evaluations: Sequence[Evaluation], *, err: bool = False) -> None:
    """Print one table, then for each evaluation what its perplexity means and what was scored."""
    console = console_for(err=err)
    console.print(_table(evaluations))
    for evaluation in evaluations:
        heading = f"{evaluation.model.spec} on {evaluation.task.spec}, protocol {describe_protocol(evaluation)}"
        console.print(visible(heading), soft_wrap=True)
        for sentence in sentences(evaluation):
            console.print(f"  {visible(sentence)}", soft_wrap=True)


def console_for(*, err: bool = False) -> Console:
    """A console that prints texts as they are, wide where its reader is a program.

    On a terminal too narrow for the numbers their lines wrap: none is cut short.
    """
    stream = sys.stderr if err else sys.stdout
    width = max(shutil.get_terminal_size().columns, NARROWEST) if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _table(evaluations: Sequence[Evaluation]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("tokens", "loss", "±", "perplexity", "bits/byte", "±"):
        table.add_column(name, justify="right", no_wrap=True)
    for e in evaluations:
        table.add_row(visible(e.model.spec), visible(e.task.spec), *_numbers(e.metrics))
        for split, metrics in e.splits.items():
            table.add_row("", f"  {visible(split)}", *_numbers(metrics))
    return table


def _numbers(metrics: Metrics) -> tuple[str, ...]:
    perplexity = "inf" if metrics.perplexity is None else _perplexity(metrics.perplexity)
    bits = "-" if metrics.bits_per_byte is None else f"{metrics.bits_per_byte:.4f}"
    spread = metrics.uncertainty
    around = ("-", "-") if spread is None else (_half(spread.loss), _half(spread.bits_per_byte))
    return str(metrics.scores), f"{metrics.loss:.4f}", around[0], perplexity, bits, around[1]


def _half(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{(interval[1] - interval[0]) / 2:.4f}"


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1e9 else f"{value:.4g}"


def sentences(evaluation: Evaluation) -> Iterator[str]:
    """What the numbers of ``evaluation`` say, in words."""
    yield _in_words(evaluation.metrics.perplexity, evaluation.model.vocab_size)
    if evaluation.peer:
        numbers = ", ".join(f"{_label(key)} {_number(value, '.5f')}" for key, value in evaluation.peer.items())
        yield f"as {evaluation.protocol.source} counts it: {numbers}"
    for key, value in evaluation.task_metrics.items():
        if not key.endswith(("_low", "_high")):
            yield f"{_label(key)}: {_number(value, '.5g')}{_range(evaluation.task_metrics, key)}"
    yield _spread(evaluation.metrics.uncertainty)
    yield _ledger(evaluation)
    yield from evaluation.notes


def _in_words(perplexity: float | None, vocabulary: int) -> str:
    if perplexity is None or perplexity > 1e15:
        return f"less certain than a guess among all {vocabulary:,} tokens could ever be"
    among = f"{perplexity:,.0f}" if perplexity >= 100 else f"{perplexity:.3g}"
    if perplexity > vocabulary:
        return f"as uncertain as choosing among {among} tokens: worse than guessing among all {vocabulary:,}"
    return f"as uncertain as choosing among {among} of {vocabulary:,} tokens"


def _spread(found: Uncertainty | None) -> str:
    if found is None:
        return "too few tokens to say how far another text of this kind might lie"
    low, high = (("beyond a float" if x is None else _perplexity(x)) for x in found.perplexity)
    over = f"{found.units} documents" if found.method == "clusters" else f"correlated tokens, {found.method}"
    return f"{found.level:.0%} interval of the perplexity on text of this kind: {low} to {high} ({over})"


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


def _number(value: float | None, form: str) -> str:
    return "beyond a float" if value is None else f"{value:{form}}"


def _range(values: Mapping[str, float | None], key: str) -> str:
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    return "" if low is None or high is None else f" (95 % interval {low:.5g} to {high:.5g})"


def _label(key: str) -> str:
    return key.replace("_", " ")
