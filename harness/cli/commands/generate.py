"""``evalgpt generate``: write on from a prompt, shown as it is written."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

import click
import msgspec

from evalgpt.cli.options import ModelOptions, common, given_text, learning, output
from evalgpt.cli.shell import state_of, targets_of
from evalgpt.core.plugins import Plugins
from evalgpt.core.text import visible
from evalgpt.report.document import to_json
from evalgpt.report.files import STDOUT, write_bytes
from evalgpt.report.targets import document_kind, own_command
from evalgpt.studies.generation import TOKENS, Generation, Sampling, generate

__all__ = ["GenerateOptions", "command", "generate_text"]


@click.command("generate")
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
def command(ctx: click.Context, /, model: str, prompt: str, **options: Any) -> None:
    """Let a model go on with PROMPT, shown as it is written.

    The likeliest token is taken each time unless a temperature is given. Behind the context's length the oldest tokens
    drop out. It stops after so many tokens, or where the model ends the text. A PROMPT of - is read from standard
    input, without the line break at its end.

    \b
    Try:  evalgpt generate "Every effort moves you" -m scratch --tokens 10
          evalgpt generate "Once upon a time" -m smollm2 --temperature 0.8 --top-k 50 --seed 1
    """
    from evalgpt.studies.generation import Sampling

    keys = ("temperature", "top_k", "seed")
    sampling = Sampling(**{key: options.pop(key) for key in keys}, stop_at_eos=not options.pop("ignore_eos"))
    (prompt,) = given_text([prompt])
    chosen = GenerateOptions(models=[model], prompt=prompt, sampling=sampling, **options, targets=targets_of(ctx))
    generate_text(state_of(ctx).plugins, chosen)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ModelOptions):
    """The options of ``evalgpt generate``."""

    prompt: str
    tokens: int = TOKENS
    sampling: Sampling = field(default_factory=Sampling)
    prefix: bool | None = None


def generate_text(plugins: Plugins, options: GenerateOptions) -> None:
    """Generate, show, write; the text goes to standard error where standard output is the document's."""
    to_stdout = options.output in STDOUT
    if options.output is not None and not to_stdout:
        options.check_target(options.output, document_kind("generation"))
    options.sampling.check()
    options.check(plugins)
    model = options.build_model(plugins, options.models[0])
    began = time.perf_counter()
    show = _Writer(options.prompt, err=to_stdout)
    try:
        found = generate(
            model,
            options.prompt,
            tokens=options.tokens,
            sampling=options.sampling,
            prefix=options.prefix,
            on_text=show,
        )
        show("\n")
    except BaseException:
        if show.begun:
            show("\n")  # what went wrong is told on a line of its own
        raise
    found = msgspec.structs.replace(found, command=own_command(options.targets.command))
    if not options.quiet:
        click.echo(_summary(found, time.perf_counter() - began), err=True)
    if to_stdout:
        sys.stdout.buffer.write(to_json(found))
    elif options.output is not None:
        write_bytes(to_json(found), options.output)


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


def _summary(found: Generation, seconds: float) -> str:
    count = len(found.ids)
    end = "; the model ended the text" if found.stopped == "eos" else ""
    return f"{count} token{'s' * (count != 1)}, {count / max(seconds, 1e-9):,.1f} tokens/s{end}"
