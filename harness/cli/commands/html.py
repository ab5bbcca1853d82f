"""``evalgpt html``: reports, explanations and logs of training as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalgpt.cli.options import common
from evalgpt.cli.output import Output, output_file
from evalgpt.core import UsageError
from evalgpt.core.text import printable, visible
from evalgpt.report.files import is_stream

if TYPE_CHECKING:
    from evalgpt.report.detail import RowDetail
    from evalgpt.report.document import Report

__all__ = ["command", "write_page"]


@click.command("html")
@click.argument("documents", nargs=-1, required=True, metavar="FILE...")
@output_file("Write the page to FILE; - is standard output.  [default: the first FILE with .html]")
@click.option("--title", metavar="TEXT", help="Title of the page.  [default: made from what is on it]")
@common
def command(documents: Sequence[str], output: Output, title: str | None) -> None:
    """Make one page of reports: the text as a map of surprisal, charts, ledger. It opens offline.

    Evaluations of the same text under the same protocol are compared with the first, token by token or by bytes. An
    explanation (made by 'explain -o') is shown step by step, a training run (give its folder) as curves.

    \b
    Try:  evalgpt html report.json
          evalgpt html before.json after.json -o page.html
          evalgpt html explanation.json run -o page.html
    """
    write_page(documents, output, title)


def write_page(paths: Sequence[str], output: Output, title: str | None) -> None:
    """Read the documents, build their page and write it to ``output``, else beside the first of them.

    Raises:
        UsageError: a document cannot be read or shown, the page cannot be written, or the extra ``html`` is missing.
    """
    try:
        from evalgpt.views.page.build import build_page, page_kind
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a page needs {error.name}, which is not installed; install evalgpt's extra html: "
            "pip install 'evalgpt[html]', or '.[html]' in a clone of it"
        ) from None
    from evalgpt.report.document import Report
    from evalgpt.studies.explanation import Explanation
    from evalgpt.studies.training.log import Training
    from evalgpt.views.page.documents import file_of, read_document

    paths = [file_of(path) for path in paths]
    output = output.reading(files=paths).at(
        output.path if output.path is not None else _beside(paths[0]), page_kind(paths)
    )
    output.check()
    documents = [read_document(path) for path in paths]
    reports = [
        (document, path) for document, path in zip(documents, paths, strict=True) if isinstance(document, Report)
    ]
    data = build_page(
        [report for report, _ in reports],
        [_detail(report, path) for report, path in reports],
        title=None if title is None else printable(title),
        explanations=[document for document in documents if isinstance(document, Explanation)],
        trainings=[document for document in documents if isinstance(document, Training)],
        sources=paths,
    )
    output.write(data)


def _detail(report: Report, path: str) -> Mapping[tuple[int, int], RowDetail]:
    """What the detail file beside the report holds; without it, a warning, and a page that shows less."""
    from evalgpt.report.detail import read_detail

    try:
        return read_detail(report, path)
    except UsageError as error:
        click.echo(f"evalgpt: warning: a page without ranks and alternatives: {visible(str(error))}", err=True)
        return {}


def _beside(path: str) -> str:
    """``report.html`` for ``report.json``, and in this folder for a stream."""
    return "report.html" if is_stream(path) else str(Path(path).with_suffix(".html"))
