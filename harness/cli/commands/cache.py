"""``evalgpt cache``: the scores that are kept between runs."""

from __future__ import annotations

import click

from evalgpt.cli.options import common
from evalgpt.core.text import visible

__all__ = ["command"]


@click.command("cache")
@click.argument("action", type=click.Choice(["info", "clear"]), default="info")
@common
def command(action: str) -> None:
    """Show the cache of scores that are kept between runs, or delete it.

    Windows that were scored before are not scored again, in a repeated run, under another protocol, or after a run was
    killed. The cache is a file in the folder $EVALGPT_CACHE. It is kept below $EVALGPT_CACHE_LIMIT MiB (1024 unless
    set): the scores that were not used for longest are deleted first.
    """
    from evalgpt.scoring.cache import ScoreCache

    usage = ScoreCache().info() if action == "info" else ScoreCache().clear()
    size = f"{usage.windows} windows, {usage.bytes / 2**20:.1f} MiB"
    limit = f" of {usage.limit >> 20}" if action == "info" else " deleted"
    click.echo(f"{visible(str(usage.path))}: {size}{limit}")
