"""The commands that show a model at work on one's own sentences: ``explain`` and ``generate``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from evalgpt.core import EvaluationError, UsageError
from evalgpt.shell import common, learning, output, state_of, targets_of

__all__ = ["explain", "generate"]


@click.command()
@click.argument("texts", nargs=-1, metavar="TEXT...")
@learning
@click.option("--top", type=click.IntRange(0, 1000), default=3, show_default=True, help="Likeliest tokens to list.")
@click.option("--prefix", is_flag=True, help="Put the model's BOS (or EOS) before each text, to predict all of it.")
@output("the steps")
@common
@click.pass_context
def explain(ctx: click.Context, /, model: str, texts: Sequence[str], **options: Any) -> None:
    """Walk from a model's logits to its loss and perplexity on your own sentences, step by step.

    Several texts are averaged together, token by token. A TEXT of - is read from standard input, without the line
    break at its end.

    \b
    Try:  evalgpt explain "every effort moves you" "I really like chocolate" -m scratch
          evalgpt explain "The capital of France is Paris" -m smollm2 --prefix --top 5
    """
    from evalgpt.run_explain import ExplainOptions, explain_texts

    options["texts"] = _read(texts)
    explain_texts(state_of(ctx).plugins, ExplainOptions(models=[model], **options, targets=targets_of(ctx)))


@click.command()
@click.argument("prompt")
@learning
@click.option("-n", "--tokens", type=click.IntRange(min=1), default=25, show_default=True, help="Tokens to write.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest; above, draw.")
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the k likeliest alone.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn.")
@click.option("--ignore-eos", is_flag=True, help="Go on where the model ends the text.")
@click.option("--prefix/--no-prefix", default=None, help="Begin with BOS (or EOS).  [default: as the tokenizer does]")
@output("ids, log-probabilities and text")
@common
@click.pass_context
def generate(ctx: click.Context, /, model: str, prompt: str, **options: Any) -> None:
    """Let a model go on with PROMPT, shown as it is written.

    The likeliest token is taken each time unless a temperature is given. Behind the context's length the oldest tokens
    drop out. It stops after so many tokens, or where the model ends the text. A PROMPT of - is read from standard
    input, without the line break at its end.

    \b
    Try:  evalgpt generate "Every effort moves you" -m scratch --tokens 10
          evalgpt generate "Once upon a time" -m smollm2 --temperature 0.8 --top-k 50 --seed 1
    """
    from evalgpt.generation import Sampling
    from evalgpt.run_generate import GenerateOptions, generate_text

    keys = ("temperature", "top_k", "seed")
    sampling = Sampling(**{key: options.pop(key) for key in keys}, stop_at_eos=not options.pop("ignore_eos"))
    (prompt,) = _read([prompt])
    chosen = GenerateOptions(models=[model], prompt=prompt, sampling=sampling, **options, targets=targets_of(ctx))
    generate_text(state_of(ctx).plugins, chosen)


def _read(texts: Sequence[str]) -> list[str]:
    """The texts, with standard input in the place of ``-``.

    Raises:
        UsageError: ``-`` is there twice. EvaluationError: standard input is not UTF-8.
    """
    if list(texts).count("-") > 1:
        raise UsageError("standard input can be read once; give - once")
    return [_standard_input() if text == "-" else text for text in texts]


def _standard_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvaluationError(f"standard input is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    return text.removesuffix("\n").removesuffix("\r")
