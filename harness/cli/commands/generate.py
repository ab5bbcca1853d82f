"""``evalgpt generate``: continue a prompt, token by token, shown as it is written."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import msgspec

from evalgpt.cli.options import SingleModelOptions, common, given_text, option, seed_option, takes
from evalgpt.cli.output import Output, output
from evalgpt.cli.shell import state_of
from evalgpt.core.plugins import Plugins
from evalgpt.core.text import visible

if TYPE_CHECKING:
    from evalgpt.studies.generation import Generation

__all__ = ["GenerateOptions", "command", "generate_text"]


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SingleModelOptions):
    """The options of ``evalgpt generate``."""

    tokens: int = option(
        "-n", "--tokens", type=click.IntRange(min=1), default=25, show_default=True, help="Most tokens to write."
    )
    temperature: float = option(
        "--temperature",
        type=float,
        default=0.0,
        show_default=True,
        help="Temperature of sampling; 0 takes the likeliest token each time.",
    )
    top_k: int | None = option("--top-k", type=click.IntRange(min=1), help="Sample from the k likeliest tokens only.")
    seed: int = seed_option("the random numbers of sampling")
    ignore_eos: bool = option("--ignore-eos", is_flag=True, help="Continue where the model ends the text (EOS).")
    prefix: bool | None = option(
        "--prefix/--no-prefix",
        default=None,
        help="Put the model's BOS (or EOS) before the prompt.  [default: as the tokenizer does]",
    )


@click.command("generate")
@click.argument("prompt")
@takes(GenerateOptions)
@output("generation", "token ids, log-probabilities and text")
@common
@click.pass_context
def command(ctx: click.Context, /, prompt: str, options: GenerateOptions, output: Output) -> None:
    """Let a model continue PROMPT; each token is shown as it is written.

    The likeliest token is taken each time unless a temperature is given. When the text is longer than the context, its
    oldest tokens drop out. It stops after --tokens tokens, or where the model ends the text. A PROMPT of - is read from
    standard input, without the line break at its end.

    \b
    Try:  evalgpt generate "Every effort moves you" -m scratch --tokens 10
          evalgpt generate "Once upon a time" -m smollm2 --temperature 0.8 --top-k 50 --seed 1
    """
    (text,) = given_text([prompt])
    generate_text(state_of(ctx).plugins, text, options, output)


def generate_text(plugins: Plugins, prompt: str, options: GenerateOptions, output: Output) -> None:
    """Generate, show, write; the text goes to standard error where standard output is the document's."""
    from evalgpt.studies.generation import Sampling, generate

    output.reading(specs=[options.model]).check()
    sampling = Sampling(
        temperature=options.temperature, top_k=options.top_k, seed=options.seed, stop_at_eos=not options.ignore_eos
    )
    sampling.check()
    options.check_models(plugins, options.model)
    model = options.build_model(plugins, options.model)
    began = time.perf_counter()
    show = _Writer(prompt, err=output.to_stdout)
    try:
        generation = generate(
            model, prompt, tokens=options.tokens, sampling=sampling, prefix=options.prefix, on_text=show
        )
        show("\n")
    except BaseException:
        if show.begun:
            show("\n")  # the error begins on a new line
        raise
    generation = msgspec.structs.replace(generation, command=output.command)
    if not options.quiet:
        click.echo(_summary(generation, time.perf_counter() - began), err=True)
    output.write(generation)


class _Writer:
    """Shows text at once, the prompt before the first of it: as it is to a program, and harmless, but for its line
    breaks, to a terminal."""

    def __init__(self, prompt: str, *, err: bool) -> None:
        self.prompt = prompt
        self.stream = sys.stderr if err else sys.stdout
        self.terminal = self.stream.isatty()
        self.begun = False

    def __call__(self, text: str) -> None:
        if not self.begun:
            self.begun = True
            text = self.prompt + text
        if self.terminal:
            text = "".join(c if c in "\n\t" else visible(c) for c in text)
        self.stream.write(text)
        self.stream.flush()


def _summary(generation: Generation, seconds: float) -> str:
    count = len(generation.ids)
    end = "; the model ended the text" if generation.stopped == "eos" else ""
    return f"{count} token{'s' * (count != 1)}, {count / max(seconds, 1e-9):,.1f} tokens/s{end}"
