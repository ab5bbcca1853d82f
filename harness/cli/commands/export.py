"""``evalgpt export``: reports in the formats of other tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from evalgpt.cli.options import common
from evalgpt.cli.shell import overwriting, targets_of
from evalgpt.core import EvaluationError, UsageError
from evalgpt.core.text import visible
from evalgpt.report.document import read_report
from evalgpt.report.files import STDOUT, write_bytes
from evalgpt.report.targets import Existing, Kind, Targets, marked_kind
from evalgpt.views.export.base import Exported, Source
from evalgpt.views.export.csv import to_csv
from evalgpt.views.export.inspect import to_inspect
from evalgpt.views.export.lm_eval import to_lm_eval
from evalgpt.views.export.markdown import BEGINS, to_markdown

__all__ = ["command", "export_all"]


@click.command("export")
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option("--to", "name", type=click.Choice(["lm-eval", "inspect", "csv", "markdown"]), required=True)
@click.option("-o", "--output", metavar="FILE", help="A file, a folder, or - for standard output.  [default: -]")
@overwriting
@common
@click.pass_context
def command(ctx: click.Context, /, reports: Sequence[str], name: str, output: str | None) -> None:
    """Write reports in a format of other tools.

    lm-eval: its results file, one for each run and model. inspect: a log of inspect_ai, one for each evaluation. csv: a
    line for each evaluation and split. markdown: a model card's tables, below the model-index that Hugging Face reads.
    Where there are several files to write, -o names a folder.

    \b
    Try:  evalgpt export report.json --to markdown
          evalgpt export before.json after.json --to inspect -o logs/
    """

    export_all(reports, name, output, targets_of(ctx))


class Format(NamedTuple):
    """How to make the files, how to know an earlier one, and what one holds."""

    make: Callable[[Sequence[Source]], list[Exported]]
    kind: Kind
    holds: str


def _field_kind(what: str, begins: bytes, path: str, value: str) -> Kind:
    """A kind of JSON of another tool, which evalgpt wrote if the field at ``path`` begins with ``value``."""
    text = marked_kind(what, begins)

    def find(name: str) -> Existing | None:
        found = text.find(name)
        if found is None:
            return None
        try:
            part: Any = msgspec.json.decode(Path(name).read_bytes())
            for key in path.split("."):
                part = part[key]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return None
        return found if isinstance(part, str) and part.startswith(value) else None

    return Kind(what, find)


FORMATS = {
    "lm-eval": Format(
        to_lm_eval,
        _field_kind("an export to lm-eval", b'{\n  "results": {', "model_source", "evalgpt"),
        "one run of one model",
    ),
    "inspect": Format(
        to_inspect,
        _field_kind("an export to inspect", b'{\n  "version": 2,', "eval.metadata.report", "evalgpt."),
        "one evaluation",
    ),
    "csv": Format(to_csv, marked_kind("a table of evaluations (CSV)", b"report,run.id,run.created,"), "all"),
    "markdown": Format(to_markdown, marked_kind("a model card", BEGINS), "all"),
}


def export_all(paths: Sequence[str], name: str, output: str | None, targets: Targets) -> None:
    """Convert the reports to the format ``name``, and write one file, or several into a folder.

    Nothing is written unless everything can be converted.

    Raises:
        UsageError: a report cannot be read or exported, there are several files to write and ``output`` is none of a
            folder, or it cannot be written. EvaluationError: writing failed half-way.
    """
    form = FORMATS[name]
    targets = targets.reading(files=paths)
    sources = [Source(path, read_report(path)) for path in paths]
    if not any(source.report.evaluations for source in sources):
        raise UsageError(f"there is nothing to export: {', '.join(paths)} without an evaluation")
    files = form.make(sources)
    target = "-" if output is None else output
    if target not in ("", *STDOUT) and (target.endswith(os.sep) or Path(target).is_dir()):
        _write_into(target, files, form, targets)
    elif len(files) > 1:
        raise UsageError(
            f"a file of {name} holds {form.holds}, and there are {len(files)} of these; give a folder, as in "
            f"-o exported{os.sep}"
        )
    elif target in STDOUT:
        _print(files[0].data)
    else:
        _write([(target, files[0].data)], form, targets)


def _holds(path: str, data: bytes) -> bool:
    file = Path(path)
    try:
        return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data
    except (OSError, ValueError):
        return False


def _print(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has what it wanted
        raise
    except OSError as error:
        raise EvaluationError(f"cannot write standard output: {error.strerror}") from None


def _write_into(folder: str, files: Sequence[Exported], form: Format, targets: Targets) -> None:
    named = [(str(Path(folder) / file.name), file.data) for file in files]
    if len({target for target, _ in named}) < len(named):
        raise UsageError("two of the reports are of one run, or of one model and second; export each to its own folder")
    for target, _ in named:
        try:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from None
    _write(named, form, targets)
    for target, _ in named:
        click.echo(f"Exported: {visible(target)}", err=True)


def _write(named: Sequence[tuple[str, bytes]], form: Format, targets: Targets) -> None:
    """Write all or nothing; what holds these very bytes already is not in the way."""
    for target, data in named:
        allowed = replace(targets, overwrite=True) if _holds(target, data) else targets
        allowed.check(target, form.kind)
    for target, data in named:
        write_bytes(data, target)
