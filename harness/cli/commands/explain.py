"""``evalgpt explain``: each step from logits to perplexity, on one's own sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click
import msgspec

from evalgpt.cli.options import SingleModelOptions, common, given_text, option, takes
from evalgpt.cli.output import Output, output
from evalgpt.cli.shell import state_of
from evalgpt.core import UsageError
from evalgpt.core.plugins import Plugins

__all__ = ["ExplainOptions", "command", "explain_texts"]


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(SingleModelOptions):
    """The options of ``evalgpt explain``."""

    top: int = option(
        "--top",
        type=click.IntRange(0, 1000),
        default=3,
        show_default=True,
        help="Likeliest tokens to list after each input token.",
    )
    prefix: bool = option(
        "--prefix", is_flag=True, help="Put the model's BOS (or EOS) before each text, to predict all of its tokens."
    )


@click.command("explain")
@click.argument("texts", nargs=-1, metavar="TEXT...")
@takes(ExplainOptions)
@output("explanation", "the steps")
@common
@click.pass_context
def command(ctx: click.Context, /, texts: Sequence[str], options: ExplainOptions, output: Output) -> None:
    """Show each step from a model's logits to its loss and perplexity, on your own sentences.

    Several texts are averaged together, token by token. A TEXT of - is read from standard input, without the line
    break at its end.

    \b
    Try:  evalgpt explain "every effort moves you" "I really like chocolate" -m scratch
          evalgpt explain "The capital of France is Paris" -m smollm2 --prefix --top 5
    """
    explain_texts(state_of(ctx).plugins, given_text(texts), options, output)


def explain_texts(plugins: Plugins, texts: Sequence[str], options: ExplainOptions, output: Output) -> None:
    """Explain, print, write; the steps go to standard error where standard output is the document's."""
    from evalgpt.studies.explanation import explain
    from evalgpt.views.terminal.explanation import print_explanation

    output.reading(specs=[options.model]).check()
    if not texts:
        raise UsageError("give a text to explain, or - to read one from standard input")
    options.check_models(plugins, options.model)
    model = options.build_model(plugins, options.model)
    explanation = explain(model, texts, top=options.top, prefix=options.prefix)
    explanation = msgspec.structs.replace(explanation, command=output.command)
    print_explanation(explanation, err=output.to_stdout)
    output.write(explanation)
