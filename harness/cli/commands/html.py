"""``evalgpt html``: reports, explanations and logs of training as one page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from evalgpt.cli.options import common
from evalgpt.cli.shell import overwriting, targets_of
from evalgpt.core import UsageError
from evalgpt.core.text import printable, visible
from evalgpt.report.detail import RowDetail, read_detail
from evalgpt.report.document import Report
from evalgpt.report.files import STDOUT, is_stream, write_bytes
from evalgpt.report.targets import Targets, marked_kind
from evalgpt.studies.explanation import Explanation
from evalgpt.studies.training.log import Training
from evalgpt.views.page.documents import file_of, read_document

__all__ = ["command", "write_page"]


@click.command("html")
@click.argument("documents", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", metavar="FILE", help="The page; - for standard output.  [default: FILE.html]")
@click.option("--title", metavar="TEXT", help="What stands above it.")
@overwriting
@common
@click.pass_context
def command(ctx: click.Context, /, documents: Sequence[str], output: str | None, title: str | None) -> None:
    """Make one page of reports: the text as a map of surprisal, charts, ledger. It opens offline.

    Evaluations of the same text under the same protocol are compared with the first, token by token or by bytes. What
    'evalgpt explain -o' wrote becomes a walk through the steps, the folder of a training run its curves.

    \b
    Try:  evalgpt html report.json
          evalgpt html before.json after.json -o page.html
          evalgpt html explanation.json run -o page.html
    """

    write_page(documents, output, title, targets_of(ctx))


def write_page(paths: Sequence[str], output: str | None, title: str | None, targets: Targets) -> None:
    """Read the documents, build their page and write it to ``output``, else beside the first of them.

    Raises:
        UsageError: a document cannot be read or shown, the page cannot be written, or the extra ``html`` is missing.
    """
    try:
        from evalgpt.views.page.build import BEGINS, build_page
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a page needs {error.name}, which is not installed; install evalgpt's extra html: "
            "pip install 'evalgpt[html]', or '.[html]' in a clone of it"
        ) from None
    paths = [file_of(path) for path in paths]
    target = output if output is not None else _beside(paths[0])
    if target not in STDOUT:
        targets.reading(files=paths).check(target, marked_kind("a page", BEGINS, replaceable=True))
    documents = [read_document(path) for path in paths]
    reports = [(found, path) for found, path in zip(documents, paths, strict=True) if isinstance(found, Report)]
    data = build_page(
        [report for report, _ in reports],
        [_detail(report, path) for report, path in reports],
        title=None if title is None else printable(title),
        explanations=[found for found in documents if isinstance(found, Explanation)],
        trainings=[found for found in documents if isinstance(found, Training)],
    )
    if target in STDOUT:
        sys.stdout.buffer.write(data)
    else:
        write_bytes(data, target)
        click.echo(f"Page: {visible(target)}", err=True)


def _detail(report: Report, path: str) -> Mapping[tuple[int, int], RowDetail]:
    """What the file beside the report holds; a page without it is better than none."""
    try:
        return read_detail(report, path)
    except UsageError as error:
        click.echo(f"evalgpt: warning: a page without ranks and alternatives: {visible(str(error))}", err=True)
        return {}


def _beside(path: str) -> str:
    """``report.json`` gives ``report.html``; so does a stream, in this folder."""
    return "report.html" if is_stream(path) else str(Path(path).with_suffix(".html"))
