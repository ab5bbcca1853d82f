"""``evalgpt explain-difference``: which cause makes how much of the gap between two perplexities of one text."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import click

from evalgpt.cli.options import common, output
from evalgpt.cli.shell import state_of, targets_of
from evalgpt.core import UsageError
from evalgpt.report.document import Evaluation, read_report, to_json
from evalgpt.report.files import STDOUT, write_bytes
from evalgpt.report.targets import document_kind, own_command
from evalgpt.studies.compare.difference import Difference, Differences, Number, explain
from evalgpt.views.terminal.console import console_for, print_rows, say

__all__ = ["command", "explain_all"]


@click.command("explain-difference")
@click.argument("reports", nargs=2, metavar="A B")
@click.option(
    "--number-a", metavar="NAME", help="A's number, as loss or word_perplexity.  [default: its tool's headline]"
)
@click.option("--number-b", metavar="NAME", help="B's number.")
@output("the steps")
@common
@click.pass_context
def command(
    ctx: click.Context, /, reports: tuple[str, str], number_a: str | None, number_b: str | None, output: str | None
) -> None:
    """Explain why two reports of one text have different perplexities.

    The gap is taken apart into averaging, unscored tokens, prefix, context, tokenizer and dtype, from the losses of
    single tokens that the reports keep. The parts sum to the whole.

    \b
    Try:  evalgpt run -m scratch -t story -p lm-eval -o a.json
          evalgpt run -m scratch -t story -p hf-strided -o b.json
          evalgpt explain-difference a.json b.json
    """

    explain_all(reports, (number_a, number_b), output, ctx)


HEADERS = ("cause", "", "tokens", "nats", "times")


def explain_all(
    reports: Sequence[str], names: tuple[str | None, str | None], output: str | None, ctx: click.Context
) -> None:
    """Explain the first report's number against the second's, text by text.

    Raises:
        UsageError: the reports share no text, or what :func:`~evalgpt.studies.compare.difference.explain` refuses.
    """
    targets = targets_of(ctx)
    if output is not None and output not in STDOUT:
        targets.reading(files=reports).check(output, document_kind("difference"))
    first, second = (read_report(path).evaluations for path in reports)
    pairs = [(a, b) for a in first for b in second if a.task.sha256 == b.task.sha256 and _alike(a, b, first, second)]
    if not pairs:
        same = {e.task.sha256 for e in first} & {e.task.sha256 for e in second}
        what = "model (spec) on a text" if same else "text (task.sha256)"
        raise UsageError(f"no {what} of {reports[0]} is in {reports[1]}, so there is nothing to explain")
    plugins = state_of(ctx).plugins
    found = [explain(a, b, names, plugins) for a, b in pairs]
    for difference in found:
        _print(difference, err=output in STDOUT)
    data = to_json(Differences(command=own_command(targets.command), differences=found))
    if output in STDOUT:
        sys.stdout.buffer.write(data)
    elif output is not None:
        write_bytes(data, output)


def _alike(a: Evaluation, b: Evaluation, first: Sequence[Evaluation], second: Sequence[Evaluation]) -> bool:
    """Whether to pair them: the same model, where a report holds several."""
    several = len({e.model.spec for e in first}) > 1 and len({e.model.spec for e in second}) > 1
    return not several or a.model.spec == b.model.spec


def _print(found: Difference, err: bool) -> None:
    console = console_for(err=err)
    say(console, f"{found.task}: {_quoted(found.origin)}")
    say(console, f"{' ' * len(found.task)}  {_quoted(found.to)}")
    rows = [(s.name, s.why, str(s.tokens) if s.tokens else "", f"{s.nats:+.5f}", _times(s.nats)) for s in found.steps]
    print_rows(console, HEADERS, [*rows, ("all", "", "", f"{found.nats:+.5f}", _times(found.nats))], left=2)
    say(console, "nats: the second's logarithm minus the first's; times: what that makes of the perplexity")
    for note in found.notes:
        say(console, note)


def _quoted(number: Number) -> str:
    perplexity = "beyond a float" if number.perplexity is None else f"{number.perplexity:.4f}"
    if "perplexity" in number.name:
        told = f"{number.name} {perplexity}"
    elif number.name == "loss":
        told = f"perplexity {perplexity}"
    else:
        told = f"{number.name} {number.value:.5f} (as a perplexity {perplexity})"
    return f"{told}, {number.protocol}, {number.model}"


def _times(nats: float) -> str:
    """By how much a perplexity is multiplied."""
    if abs(nats) < 5:
        return f"{math.exp(nats):.4f}"
    return f"{math.exp(nats):.4g}" if abs(nats) < 700 else f"e^{nats:.1f}"
