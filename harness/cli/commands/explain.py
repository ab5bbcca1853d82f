"""The commands that show a model at work on one's own sentences: ``explain`` and ``generate``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from evalgpt.cli.options import ModelOptions, common, given_text, learning, output
from evalgpt.cli.shell import state_of, targets_of
from evalgpt.core import UsageError
from evalgpt.core.plugins import Plugins
from evalgpt.report.document import to_json
from evalgpt.report.files import STDOUT, write_bytes
from evalgpt.report.targets import document_kind, own_command
from evalgpt.studies.explanation import explain
from evalgpt.views.terminal.explanation import print_explanation

__all__ = ["ExplainOptions", "command", "explain_texts"]


@click.command("explain")
@click.argument("texts", nargs=-1, metavar="TEXT...")
@learning
@click.option("--top", type=click.IntRange(0, 1000), default=3, show_default=True, help="Likeliest tokens to list.")
@click.option("--prefix", is_flag=True, help="Put the model's BOS (or EOS) before each text, to predict all of it.")
@output("the steps")
@common
@click.pass_context
def command(ctx: click.Context, /, model: str, texts: Sequence[str], **options: Any) -> None:
    """Walk from a model's logits to its loss and perplexity on your own sentences, step by step.

    Several texts are averaged together, token by token. A TEXT of - is read from standard input, without the line
    break at its end.

    \b
    Try:  evalgpt explain "every effort moves you" "I really like chocolate" -m scratch
          evalgpt explain "The capital of France is Paris" -m smollm2 --prefix --top 5
    """

    options["texts"] = given_text(texts)
    explain_texts(state_of(ctx).plugins, ExplainOptions(models=[model], **options, targets=targets_of(ctx)))


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(ModelOptions):
    """The options of ``evalgpt explain``."""

    texts: Sequence[str] = ()
    top: int = 3
    prefix: bool = False


def explain_texts(plugins: Plugins, options: ExplainOptions) -> None:
    """Explain, print, write; the steps go to standard error where standard output is the document's."""
    to_stdout = options.output in STDOUT
    if options.output is not None and not to_stdout:
        options.check_target(options.output, document_kind("explanation"))
    if not options.texts:
        raise UsageError("give a text to explain, or - to read one from standard input")
    options.check(plugins)
    model = options.build_model(plugins, options.models[0])
    found = explain(model, options.texts, top=options.top, prefix=options.prefix)
    found = msgspec.structs.replace(found, command=own_command(options.targets.command))
    print_explanation(found, err=to_stdout)
    if to_stdout:
        sys.stdout.buffer.write(to_json(found))
    elif options.output is not None:
        write_bytes(to_json(found), options.output)
