"""The command line. Commands parse, call the Python API and print; heavy imports wait inside them."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

import click

from evalgpt.cli.options import common
from evalgpt.cli.shell import Cli
from evalgpt.core.streams import finish, keep

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "cache": ("cache", "command", "Show the cache of scores that are kept between runs, or delete it."),
    "check": (
        "check",
        "command",
        "Check an adapter: shift, causality, padding, probabilities, tokenizer, fingerprint.",
    ),
    "compare": ("compare", "command", "Compare models on the same text: which is better, by how much, and how sure."),
    "explain": (
        "explain",
        "command",
        "Show each step from a model's logits to its loss and perplexity, on your own sentences.",
    ),
    "explain-difference": (
        "explain_difference",
        "command",
        "Explain why two reports of one text have different perplexities.",
    ),
    "export": ("export", "command", "Write reports in a format of other tools."),
    "generate": ("generate", "command", "Let a model continue PROMPT; each token is shown as it is written."),
    "html": (
        "html",
        "command",
        "Make one page of reports: the text as a map of surprisal, charts, ledger. It opens offline.",
    ),
    "models": ("listing", "models", "List the models, with the keys that their specs take."),
    "plugins": ("plugins", "command", "List the plugins: what each adds, and which failed to load."),
    "protocols": ("listing", "protocols", "Describe the protocols: which tokens are scored, and from which context."),
    "run": ("run", "command", "Measure one or more models on one or more tasks."),
    "schema": ("schema", "command", "Print the JSON Schema of a report, or of what another command writes with -o."),
    "show": ("show", "command", "Print the table of a report again; - reads standard input."),
    "tasks": ("listing", "tasks", "List the tasks, with the keys that their specs take."),
    "train": ("train", "command", "Train a model on a text, with evaluations and checkpoints."),
    "verify": (
        "verify",
        "command",
        "Run a report's evaluations again and compare: weights, text, windows, every loss, every number.",
    ),
}
"""Every command: its module in :mod:`evalgpt.cli.commands`, the attribute there, and its help in one line. A module is
imported when its command is called."""


@click.group(cls=Cli, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="evalgpt", message="evalgpt %(version)s")
@common
def cli() -> None:
    """Measure how well language models predict text: loss, perplexity and bits per byte.

    \b
    Try:  evalgpt run --model scratch --task pairs
          evalgpt run --model scratch --task text:book.txt -o report.json
          evalgpt models
    """


def main() -> None:
    """The ``evalgpt`` console script."""
    # Threads that spin while they wait starve each other on a busy machine: 2 to 40 times slower with two jobs on two
    # cores. On an idle one, waiting asleep costs a GPT of 124M 4 %, and a tiny one 40 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a result is not lost to a name the terminal cannot spell
    try:
        cli(prog_name="evalgpt")
        code: Any = 0
    except SystemExit as stop:
        code = stop.code
    failed = finish()
    if failed is not None and not code:
        code = 1
        if failed.errno != errno.EPIPE:
            click.echo(f"evalgpt: error: cannot write standard output: {failed.strerror}", err=True)
    sys.exit(code)
