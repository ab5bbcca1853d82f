"""``evalgpt html``: reports as one page."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from evalgpt.core import UsageError
from evalgpt.detail import RowDetail, read_detail
from evalgpt.files import STDOUT, check_writable, is_stream, write_bytes
from evalgpt.report import Report, read_report
from evalgpt.specs import printable, visible

__all__ = ["write_page"]


def write_page(paths: Sequence[str], output: str | None, title: str | None) -> None:
    """Read the reports, build their page and write it to ``output``, else beside the first report.

    Raises:
        UsageError: a report cannot be read or shown, the page cannot be written, or the extra ``html`` is missing.
    """
    try:
        from evalgpt.page import BEGINS, build_page
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a page needs {error.name}, which is not installed; install evalgpt's extra html: "
            "pip install 'evalgpt[html]', or '.[html]' in a clone of it"
        ) from None
    target = output if output is not None else _beside(paths[0])
    if target not in STDOUT:
        check_writable(target, BEGINS, "a page")
        if os.path.realpath(target) in map(os.path.realpath, paths):
            raise UsageError(f"the page {target} would be written over a report that is read")
    reports = [read_report(path) for path in paths]
    details = [_detail(report, path) for report, path in zip(reports, paths, strict=True)]
    data = build_page(reports, details, title=None if title is None else printable(title))
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
