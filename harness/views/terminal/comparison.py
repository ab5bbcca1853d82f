"""The comparison as a table and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from evalgpt.studies.compare.comparison import Comparison, Side
from evalgpt.views.terminal.console import console_for, print_rows, say
from evalgpt.views.wording.comparison import interval_text, p_text, sentences_of

__all__ = ["print_comparisons"]


HEADERS = (
    "model",
    "tokens",
    "loss",
    "perplexity",
    "bits/byte",
    "95 % interval",
    "difference",
    "its 95 % interval",
    "p",
)


def print_comparisons(comparisons: Sequence[Comparison], *, err: bool = False) -> None:
    """One table for each text: the first model, and every other against it; then what that says."""
    console = console_for(err=err)
    for (task, protocol), found in groupby(comparisons, key=lambda c: (c.task, c.protocol)):
        group = list(found)
        say(console, f"{task}, protocol {protocol}")
        print_rows(console, HEADERS, _rows(group), left=1)
        for comparison in group:
            for sentence in sentences_of(comparison):
                say(console, sentence.strip(), indent=len(sentence) - len(sentence.lstrip()))
        for side in (group[0].baseline, *(comparison.candidate for comparison in group)):
            for verdict in side.verdicts:
                say(console, f"! {side.model}: {verdict.message}")


def _rows(group: Sequence[Comparison]) -> list[tuple[str, ...]]:
    rows = [(*_side(group[0].baseline), "", "", "")]
    for comparison in group:
        gap = comparison.bits_per_byte_difference
        rows.append(
            (
                *_side(comparison.candidate),
                f"{gap.value:+.4f}",
                interval_text(gap, "+"),
                "-" if comparison.decision else p_text(gap.p_value),
            )
        )
    return rows


def _side(side: Side) -> tuple[str, ...]:
    perplexity = "inf" if side.perplexity is None else f"{side.perplexity:.2f}"
    bits = side.bits_per_byte
    return side.model, str(side.tokens), f"{side.loss:.4f}", perplexity, f"{bits.value:.4f}", interval_text(bits)
