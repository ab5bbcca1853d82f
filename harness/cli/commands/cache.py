"""``evalgpt cache``: what is kept between runs."""

from __future__ import annotations

import click

from evalgpt.cli.options import common
from evalgpt.core.text import visible

__all__ = ["command"]


@click.command("cache")
@click.argument("action", type=click.Choice(["info", "clear"]), default="info")
@common
def command(action: str) -> None:
    """Say what scores are kept between runs, or delete them.

    Windows that were scored before are not scored again, in a repeated run, under another protocol, or after a run was
    killed. The file is cut back to $EVALGPT_CACHE_LIMIT MiB (1024), the longest unused first; $EVALGPT_CACHE is the
    folder it is in.
    """
    from evalgpt.scoring.cache import ScoreCache

    found = ScoreCache().info() if action == "info" else ScoreCache().clear()
    size = f"{found.windows} windows, {found.bytes / 2**20:.1f} MiB"
    limit = f" of {found.limit >> 20}" if action == "info" else " deleted"
    click.echo(f"{visible(str(found.path))}: {size}{limit}")
