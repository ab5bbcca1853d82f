"""``evalgpt export``: reports in the formats of other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evalgpt.cli.options import common
from evalgpt.cli.output import Output, output_file
from evalgpt.core import UsageError

if TYPE_CHECKING:
    from evalgpt.views.export.base import Exported

__all__ = ["FORMATS", "command", "export_all"]

FORMATS = ("lm-eval", "inspect", "csv", "markdown")
"""The names in :mod:`evalgpt.views.export.formats`, which is imported when an export is made."""


@click.command("export")
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option("--to", "name", type=click.Choice(FORMATS), required=True, help="Format to write.")
@output_file("Write to FILE, or into FILE where it is a folder; - is standard output.  [default: -]")
@common
def command(reports: Sequence[str], name: str, output: Output) -> None:
    """Write reports in a format of other tools.

    lm-eval: its results file, one for each run and model. inspect: a log of inspect_ai, one for each evaluation. csv: a
    line for each evaluation and split. markdown: a model card's tables, below the model-index that Hugging Face reads.
    Where there are several files to write, -o names a folder.

    \b
    Try:  evalgpt export report.json --to markdown
          evalgpt export before.json after.json --to inspect -o logs/
    """
    export_all(reports, name, output)


def export_all(paths: Sequence[str], name: str, output: Output) -> None:
    """Convert the reports to the format ``name``, and write one file, or several into a folder.

    Nothing is written unless everything can be converted.

    Raises:
        UsageError: a report cannot be read or exported, several files need a folder and ``output`` is not one,
            or it cannot be written. EvaluationError: writing failed half-way.
    """
    from evalgpt.report.document import read_report
    from evalgpt.views.export.base import Source
    from evalgpt.views.export.formats import FORMATS

    form = FORMATS[name]
    target = "-" if output.path is None else output.path
    output = output.reading(files=paths).at(target, form.kind)
    sources = [Source(path, read_report(path)) for path in paths]
    if not any(source.report.evaluations for source in sources):
        raise UsageError(f"there is nothing to export: {', '.join(paths)} without an evaluation")
    files = form.make(sources)
    if target and not output.to_stdout and (target.endswith(os.sep) or Path(target).is_dir()):
        _write(_in_folder(output, files), files)
    elif len(files) > 1:
        raise UsageError(
            f"a file of {name} holds {form.holds}, and there are {len(files)} of these; give a folder, as in "
            f"-o exported{os.sep}"
        )
    else:
        _write([output], files)


def _in_folder(output: Output, files: Sequence[Exported]) -> list[Output]:
    """The outputs of ``files`` in the folder ``output``, which is made if it is not there."""
    paths = [str(Path(str(output.path)) / file.name) for file in files]
    if len(set(paths)) < len(paths):
        raise UsageError("two of the reports are of one run, or of one model and second; export each to its own folder")
    for path in paths:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    return [output.at(path, output.kind) for path in paths]


def _write(outputs: Sequence[Output], files: Sequence[Exported]) -> None:
    """Check all targets before the first is written. A file that holds exactly these bytes may always be replaced."""
    for output, file in zip(outputs, files, strict=True):
        same = _holds(str(output.path), file.data)
        (replace(output, targets=replace(output.targets, overwrite=True)) if same else output).check()
    for output, file in zip(outputs, files, strict=True):
        output.write(file.data)


def _holds(path: str, data: bytes) -> bool:
    file = Path(path)
    try:
        return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data
    except (OSError, ValueError):
        return False
