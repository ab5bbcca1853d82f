"""``evalgpt export``: reports in the formats of other tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from evalgpt.core import EvaluationError, UsageError
from evalgpt.export_base import Exported, Source
from evalgpt.export_csv import to_csv
from evalgpt.export_inspect import to_inspect
from evalgpt.export_lm_eval import to_lm_eval
from evalgpt.export_markdown import BEGINS, to_markdown
from evalgpt.files import STDOUT, check_writable, write_bytes
from evalgpt.report import read_report
from evalgpt.specs import visible

__all__ = ["export_all"]


class Format(NamedTuple):
    """How to make the files, how each begins, and what one holds."""

    make: Callable[[Sequence[Source]], list[Exported]]
    begins: bytes
    holds: str


FORMATS = {
    "lm-eval": Format(to_lm_eval, b'{\n  "results": {', "one run of one model"),
    "inspect": Format(to_inspect, b'{\n  "version": 2,', "one evaluation"),
    "csv": Format(to_csv, b"report,run.id,", "all"),
    "markdown": Format(to_markdown, BEGINS, "all"),
}


def export_all(paths: Sequence[str], name: str, output: str | None) -> None:
    """Convert the reports to the format ``name``, and write one file, or several into a folder.

    Nothing is written unless everything can be converted.

    Raises:
        UsageError: a report cannot be read or exported, there are several files to write and ``output`` is none of a
            folder, or it cannot be written. EvaluationError: writing failed half-way.
    """
    form = FORMATS[name]
    sources = [Source(path, read_report(path)) for path in paths]
    if not any(source.report.evaluations for source in sources):
        raise UsageError(f"there is nothing to export: {', '.join(paths)} without an evaluation")
    files = form.make(sources)
    target = "-" if output is None else output
    if target not in ("", *STDOUT) and (target.endswith(os.sep) or Path(target).is_dir()):
        _write_into(target, files, form, paths)
    elif len(files) > 1:
        raise UsageError(
            f"a file of {name} holds {form.holds}, and there are {len(files)} of these; give a folder, as in "
            f"-o exported{os.sep}"
        )
    elif target in STDOUT:
        _print(files[0].data)
    else:
        _write([(target, files[0].data)], form, paths)


def _print(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has what it wanted
        raise
    except OSError as error:
        raise EvaluationError(f"cannot write standard output: {error.strerror}") from None


def _write_into(folder: str, files: Sequence[Exported], form: Format, paths: Sequence[str]) -> None:
    targets = [(str(Path(folder) / file.name), file.data) for file in files]
    if len({target for target, _ in targets}) < len(targets):
        raise UsageError("two of the reports are of one run, or of one model and second; export each to its own folder")
    for target, _ in targets:
        try:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from None
    _write(targets, form, paths)
    for target, _ in targets:
        click.echo(f"Exported: {visible(target)}", err=True)


def _write(targets: Sequence[tuple[str, bytes]], form: Format, paths: Sequence[str]) -> None:
    for target, _ in targets:
        check_writable(target, form.begins, "an export")
        if os.path.realpath(target) in map(os.path.realpath, paths):
            raise UsageError(f"{target} would be written over a report that is read")
    for target, data in targets:
        write_bytes(data, target)
