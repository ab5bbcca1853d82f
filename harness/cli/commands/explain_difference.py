"""``evalgpt explain-difference``: what each cause contributes to the difference of two perplexities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from evalgpt.cli.options import common
from evalgpt.cli.output import Output, output
from evalgpt.cli.shell import state_of
from evalgpt.core import UsageError

if TYPE_CHECKING:
    from evalgpt.report.document import Evaluation
    from evalgpt.studies.compare.difference import Difference, Number

__all__ = ["command", "explain_all"]


@click.command("explain-difference")
@click.argument("reports", nargs=2, metavar="A B")
@click.option(
    "--number-a",
    metavar="NAME",
    help="Number of A to explain, as loss or word_perplexity.  [default: its tool's headline]",
)
@click.option("--number-b", metavar="NAME", help="Number of B, in the same way.")
@output("difference", "the parts of the difference")
@common
def command(reports: tuple[str, str], number_a: str | None, number_b: str | None, output: Output) -> None:
    """Explain why two reports of one text have different perplexities.

    Splits the difference into averaging, unscored tokens, prefix, context, tokenizer and dtype, by the losses of single
    tokens that the reports keep. The parts sum to the whole.

    \b
    Try:  evalgpt run -m scratch -t story -p lm-eval -o a.json
          evalgpt run -m scratch -t story -p hf-strided -o b.json
          evalgpt explain-difference a.json b.json
    """
    explain_all(reports, (number_a, number_b), output)


HEADERS = ("cause", "", "tokens", "nats", "times")


def explain_all(reports: Sequence[str], names: tuple[str | None, str | None], output: Output) -> None:
    """Explain the first report's number against the second's, text by text.

    Raises:
        UsageError: the reports share no text, or what :func:`~evalgpt.studies.compare.difference.explain` refuses.
    """
    from evalgpt.report.document import read_report
    from evalgpt.studies.compare.difference import Differences, explain

    output.reading(files=reports).check()
    first, second = (read_report(path).evaluations for path in reports)
    pairs = [
        (a, b) for a in first for b in second if a.task.sha256 == b.task.sha256 and _same_model(a, b, first, second)
    ]
    if not pairs:
        same = {e.task.sha256 for e in first} & {e.task.sha256 for e in second}
        what = "model (spec) on a text" if same else "text (task.sha256)"
        raise UsageError(f"no {what} of {reports[0]} is in {reports[1]}, so there is nothing to explain")
    plugins = state_of(click.get_current_context()).plugins
    differences = [explain(a, b, names, plugins) for a, b in pairs]
    for difference in differences:
        _print(difference, err=output.to_stdout)
    output.write(Differences(command=output.command, differences=differences))


def _same_model(a: Evaluation, b: Evaluation, first: Sequence[Evaluation], second: Sequence[Evaluation]) -> bool:
    """Whether to pair them: the same model, where a report holds several."""
    several = len({e.model.spec for e in first}) > 1 and len({e.model.spec for e in second}) > 1
    return not several or a.model.spec == b.model.spec


def _print(difference: Difference, err: bool) -> None:
    from evalgpt.views.terminal.console import console_for, print_rows, say

    console = console_for(err=err)
    say(console, f"{difference.task}: {_quoted(difference.origin)}")
    say(console, f"{' ' * len(difference.task)}  {_quoted(difference.to)}")
    rows = [
        (s.name, s.why, str(s.tokens) if s.tokens else "", f"{s.nats:+.5f}", _times(s.nats)) for s in difference.steps
    ]
    print_rows(console, HEADERS, [*rows, ("all", "", "", f"{difference.nats:+.5f}", _times(difference.nats))], left=2)
    say(console, "nats: logarithm of B's number minus that of A's; times: the factor between the perplexities")
    for note in difference.notes:
        say(console, note)


def _quoted(number: Number) -> str:
    perplexity = "beyond a float" if number.perplexity is None else f"{number.perplexity:.4f}"
    if "perplexity" in number.name:
        text = f"{number.name} {perplexity}"
    elif number.name == "loss":
        text = f"perplexity {perplexity}"
    else:
        text = f"{number.name} {number.value:.5f} (as a perplexity {perplexity})"
    return f"{text}, {number.protocol}, {number.model}"


def _times(nats: float) -> str:
    """By how much a perplexity is multiplied."""
    if abs(nats) < 5:
        return f"{math.exp(nats):.4f}"
    return f"{math.exp(nats):.4g}" if abs(nats) < 700 else f"e^{nats:.1f}"
