"""The commands that read reports: ``show``, ``html``, ``export``. Heavy imports wait inside them."""

from __future__ import annotations

from collections.abc import Sequence

import click

from evalgpt.shell import common, overwriting, targets_of

__all__ = ["export", "html", "show"]


@click.command()
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@common
def show(reports: Sequence[str]) -> None:
    """Print the table of a report again; - reads standard input."""
    from evalgpt.render import print_evaluations
    from evalgpt.report import read_report

    read = [read_report(path) for path in reports]
    print_evaluations([evaluation for report in read for evaluation in report.evaluations])


@click.command()
@click.argument("documents", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", metavar="FILE", help="The page; - for standard output.  [default: FILE.html]")
@click.option("--title", metavar="TEXT", help="What stands above it.")
@overwriting
@common
@click.pass_context
def html(ctx: click.Context, /, documents: Sequence[str], output: str | None, title: str | None) -> None:
    """Make one page of reports: the text as a map of surprisal, charts, ledger. It opens offline.

    Evaluations of the same text under the same protocol are compared with the first, token by token or by bytes. What
    'evalgpt explain -o' wrote becomes a walk through the steps, the folder of a training run its curves.

    \b
    Try:  evalgpt html report.json
          evalgpt html before.json after.json -o page.html
          evalgpt html explanation.json run -o page.html
    """
    from evalgpt.run_html import write_page

    write_page(documents, output, title, targets_of(ctx))


@click.command()
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option("--to", "name", type=click.Choice(["lm-eval", "inspect", "csv", "markdown"]), required=True)
@click.option("-o", "--output", metavar="FILE", help="A file, a folder, or - for standard output.  [default: -]")
@overwriting
@common
@click.pass_context
def export(ctx: click.Context, /, reports: Sequence[str], name: str, output: str | None) -> None:
    """Write reports in a format of other tools.

    lm-eval: its results file, one for each run and model. inspect: a log of inspect_ai, one for each evaluation. csv: a
    line for each evaluation and split. markdown: a model card's tables, below the model-index that Hugging Face reads.
    Where there are several files to write, -o names a folder.

    \b
    Try:  evalgpt export report.json --to markdown
          evalgpt export before.json after.json --to inspect -o logs/
    """
    from evalgpt.run_export import export_all

    export_all(reports, name, output, targets_of(ctx))
