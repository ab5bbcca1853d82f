"""``evalgpt models``, ``tasks`` and ``protocols``: what there is, with every key."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence

import click

from evalgpt.cli.options import common
from evalgpt.cli.shell import state_of

__all__ = ["models", "protocols", "tasks"]


def _listing(kind: str, doc: str) -> click.Command:
    @click.command(f"{kind}s", help=doc)
    @click.argument("names", nargs=-1, metavar="[NAME]...")
    @common
    @click.pass_context
    def listing(ctx: click.Context, names: Sequence[str]) -> None:
        plugins = state_of(ctx).plugins
        for name in names or sorted(plugins.entries[kind]):
            entry = plugins.find(kind, name)
            _, _, body = entry.doc.partition("\n\n")
            click.secho(name, bold=True, nl=False)
            click.echo(f"  {entry.summary}")
            for line in body.splitlines() if kind == "protocol" or names else []:
                click.echo(f"    {line}")
            keys = ", ".join(
                k if v in (None, inspect.Parameter.empty) else f"{k}={v}" for k, v in entry.options.items()
            )
            if keys:
                click.echo(textwrap.fill(f"keys: {keys}", 100, initial_indent="    ", subsequent_indent="      "))

    return listing


models = _listing("model", "List the models, with the keys that their specs take.")
tasks = _listing("task", "List the tasks, with the keys that their specs take.")
protocols = _listing("protocol", "Describe the protocols: which tokens are scored, and from which context.")
