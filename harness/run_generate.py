"""``evalgpt generate``: write on from a prompt, shown as it is written."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import click
import msgspec

from evalgpt.files import STDOUT, write_bytes
from evalgpt.generation import TOKENS, Generation, Sampling, generate
from evalgpt.options import ModelOptions
from evalgpt.plugins import Plugins
from evalgpt.report import to_json
from evalgpt.specs import visible
from evalgpt.targets import document_kind, own_command

__all__ = ["GenerateOptions", "generate_text"]


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
