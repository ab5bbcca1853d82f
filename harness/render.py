"""The table and the sentences that a person reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evalgpt.metrics import Metrics, Uncertainty
from evalgpt.report import Evaluation, Sample, describe_protocol
from evalgpt.specs import visible

__all__ = ["console_for", "in_words", "print_evaluations", "print_rows", "say", "sentences", "shown"]

HEADERS = ("model", "task", "tokens", "loss", "±", "perplexity", "bits/byte", "±")

PIPE_WIDTH = 160
"""Columns where the output is no terminal: nothing is wrapped for a reader that is a program."""


def print_evaluations(evaluations: Sequence[Evaluation], *, err: bool = False) -> None:
    """Print one table, then for each evaluation what its perplexity means and what was scored."""
    console = console_for(err=err)
    print_rows(console, HEADERS, _rows(evaluations), left=2)
    for evaluation in evaluations:
        heading = f"{evaluation.model.spec} on {evaluation.task.spec}, protocol {describe_protocol(evaluation)}"
        say(console, heading)
        for sentence in sentences(evaluation):
            say(console, sentence, indent=2)


def console_for(*, err: bool = False) -> Console:
    """A console that prints texts as they are, wide where its reader is a program."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def shown(console: Console, text: str) -> str:
    """``text`` as the console can print it: what could steer it, and what its encoding lacks, is spelled out."""
    text = visible(text)
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:  # before a table is laid out, so that its columns stand straight
        text = text.replace("±", "+/-").encode(console.encoding, "backslashreplace").decode(console.encoding)
    return text


def say(console: Console, text: str, indent: int = 0) -> None:
    """Print a sentence: wrapped between words on a terminal, on one line for a program."""
    if console.is_terminal:
        console.print(Padding(Text(shown(console, text)), (0, 0, 0, indent)))
    else:
        console.print(" " * indent + shown(console, text), soft_wrap=True)


def print_rows(
    console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]], left: int, names: int | None = None
) -> None:
    """Print a table whose first ``left`` columns are texts and the others numbers.

    Where it does not fit, each row becomes lines of its own, the first ``names`` columns (all texts by default) without
    their headers: no number is cut short and no name dropped.
    """
    names = left if names is None else names
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(headers):
        table.add_column(shown(console, name), justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(shown(console, cell) for cell in row))
    unbounded = console.options.update(max_width=10_000)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        console.print(table)
        return
    for row in rows:
        say(console, ": ".join(cell.strip() for cell in row[:names] if cell.strip()))
        named = zip(headers[names:], row[names:], strict=True)
        say(console, ", ".join(f"{name} {cell}" for name, cell in named if cell), indent=2)


def _rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    rows = []
    for e in evaluations:
        rows.append((e.model.spec, e.task.spec, *_numbers(e.metrics)))
        rows += [("", f"  {split}", *_numbers(metrics)) for split, metrics in e.splits.items()]
    return rows


def _numbers(metrics: Metrics) -> tuple[str, ...]:
    perplexity = ">1e308" if metrics.perplexity is None else _perplexity(metrics.perplexity)
    bits = "-" if metrics.bits_per_byte is None else _nats(metrics.bits_per_byte)
    spread = metrics.uncertainty
    around = ("-", "-") if spread is None else (_half(spread.loss), _half(spread.bits_per_byte))
    return str(metrics.scores), _nats(metrics.loss), around[0], perplexity, bits, around[1]


def _half(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else _nats((interval[1] - interval[0]) / 2)


def _nats(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e9 else f"{value:.4g}"


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1e9 else f"{value:.4g}"


def sentences(evaluation: Evaluation) -> Iterator[str]:
    """What the numbers of ``evaluation`` say, in words."""
    yield in_words(evaluation.metrics.perplexity, evaluation.model.vocab_size)
    if evaluation.peer:
        numbers = ", ".join(f"{_label(key)} {_number(value, '.5f')}" for key, value in evaluation.peer.items())
        yield f"as {evaluation.protocol.source} counts it: {numbers}"
    for key, value in evaluation.task_metrics.items():
        if not key.endswith(("_low", "_high")):
            yield f"{_label(key)}: {_number(value, '.5g')}{_range(evaluation.task_metrics, key)}"
    if evaluation.sample is not None:
        yield _sample(evaluation.sample)
    yield _spread(evaluation.metrics.uncertainty)
    yield _ledger(evaluation)
    yield from evaluation.notes
    for verdict in evaluation.verdicts:
        yield f"! {verdict.message}"


def in_words(perplexity: float | None, vocabulary: int) -> str:
    if perplexity is None or perplexity > 1e15:
        return f"less certain than a guess among all {vocabulary:,} tokens could ever be"
    among = f"{perplexity:,.0f}" if perplexity >= 100 else f"{perplexity:.3g}"
    if perplexity > vocabulary:
        return f"as uncertain as choosing among {among} tokens, more than the {vocabulary:,} there are"
    return f"as uncertain as choosing among {among} of {vocabulary:,} tokens"


def _spread(found: Uncertainty | None) -> str:
    if found is None:
        return "too few tokens to say how far another text of this kind might lie"
    low, high = (("beyond a float" if x is None else _perplexity(x)) for x in found.perplexity)
    over = f"{found.units} documents" if found.method == "clusters" else f"correlated tokens, {found.method}"
    return f"{found.level:.0%} interval of the perplexity on text of this kind: {low} to {high} ({over})"


def _sample(found: Sample) -> str:
    if found.windows == found.of:
        return f"{found.reason}: the perplexity is that of the whole text"
    part = f"{found.windows} of {found.of} windows, {found.tokens / found.of_tokens:.1%} of the tokens, in random order"
    if found.perplexity is None or None in found.perplexity:
        return f"{found.reason}: {part}{assumed(found.rarest)}"
    low, high = _apart([x for x in found.perplexity if x is not None])
    asked = "" if found.precision is None else f", within {found.precision * 100:g} % of it"
    return (
        f"{found.reason}: the whole text's perplexity is {low} to {high} ({found.level:.0%}){asked}; {part}"
        + assumed(found.rarest)
    )


def _apart(bounds: Sequence[float]) -> list[str]:
    """Perplexities in as many digits as tell the bounds of a narrow interval apart."""
    shown = [_perplexity(x) for x in bounds]
    for digits in range(6, 17):
        if len(set(shown)) == len(set(bounds)):
            break
        shown = [f"{x:.{digits}g}" for x in bounds]
    return shown


def assumed(rarest: float | None) -> str:
    """The assumption under which a sample's interval holds, in words; empty where none was recorded."""
    return (
        "" if rarest is None else f"; holds if every kind of window that matters is {rarest * 100:g} % of all or more"
    )


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
    recalled, computed = evaluation.timing.recalled_scores, evaluation.timing.computed_scores
    if recalled:
        line += f"; {min(recalled, ledger.scores) if computed else 'all'} losses kept from an earlier run"
    return line if computed == 0 else f"{line}; {evaluation.timing.tokens_per_second:,.0f} tokens/s"


def _number(value: float | None, form: str) -> str:
    return "beyond a float" if value is None else f"{value:{form}}"


def _range(values: Mapping[str, float | None], key: str) -> str:
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    return "" if low is None or high is None else f" (95 % interval {low:.5g} to {high:.5g})"


def _label(key: str) -> str:
    paradigm, _, name = key.rpartition(".")
    return f"{paradigm}: {name.replace('_', ' ')}" if paradigm else name.replace("_", " ")
