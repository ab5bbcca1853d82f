"""``evalgpt plugins``: what is installed, and what failed to load."""

from __future__ import annotations

import click

from evalgpt.cli.options import common
from evalgpt.cli.shell import state_of
from evalgpt.core.plugins import load_plugins
from evalgpt.core.text import visible

__all__ = ["command"]


@click.command("plugins")
@common
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the plugins: what each adds, and which failed to load."""
    loaded = load_plugins(state_of(ctx).extra)
    for plugin, _ in loaded.manager.list_name_plugin():
        adds = [
            f"{kind} {entry.name}"
            for kind, entries in loaded.entries.items()
            for entry in entries.values()
            if entry.plugin == plugin
        ]
        click.echo(f"{plugin}: {', '.join(adds) or 'adds no model, task or protocol'}")
    for plugin, why in loaded.failures.items():
        click.echo(f"{plugin}: failed to load: {visible(why)}")
