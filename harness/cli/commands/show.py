"""``evalgpt show``: the table of a report, again."""

from __future__ import annotations

from collections.abc import Sequence

import click

from evalgpt.cli.options import common

__all__ = ["command"]


@click.command("show")
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@common
def command(reports: Sequence[str]) -> None:
    """Print the table of a report again; - reads standard input."""
    from evalgpt.report.document import read_report
    from evalgpt.views.terminal.evaluation import print_evaluations

    read = [read_report(path) for path in reports]
    print_evaluations([evaluation for report in read for evaluation in report.evaluations])
