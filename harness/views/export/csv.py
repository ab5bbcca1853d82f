"""Reports as a table of comma-separated values, one line for each evaluation and each of its splits."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from evalgpt.core.text import printable, visible
from evalgpt.report.document import Evaluation, Sample
from evalgpt.report.metrics import ContextLengths, Uncertainty
from evalgpt.views.export.base import Exported, Source, parts

__all__ = ["to_csv"]


AS_JSON = ("model.config", "model.tokenizer", "model.runtime", "ledger.context.histogram")
"""Kept whole in one cell, as JSON."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a text begins that a spreadsheet would run as a formula (OWASP, CSV Injection)."""

INTERVALS = {
    *(f"metrics.uncertainty.{name}" for name in ("loss", "perplexity", "bits_per_byte")),
    *(f"sample.{name}" for name in ("loss", "perplexity")),
}
"""Two cells each, the bounds."""

EMPTY: dict[str, list[str]] = {
    "metrics.uncertainty": [field.name for field in dataclasses.fields(Uncertainty)],
    "ledger.context": [field.name for field in dataclasses.fields(ContextLengths)],
    "sample": list(Sample.__struct_fields__),
}
"""The fields of what may be null as a whole, so that every export has the same columns."""


def to_csv(sources: Sequence[Source]) -> list[Exported]:
    """Columns are named as the fields of the report, in dots; ``split`` is empty on the line of the whole.

    Null is an empty cell. Numbers are written so that they read back the same. A text that a spreadsheet would take for
    a formula begins with an apostrophe, and control characters are spelled out, so that a line stays a line.
    """
    lines = [line for source in sources for e in source.report.evaluations for line in _lines(source, e)]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(line.get(name)) for name in columns] for line in lines)
    return [Exported("evaluations.csv", out.getvalue().encode())]


def _lines(source: Source, evaluation: Evaluation) -> Iterator[dict[str, object]]:
    run, whole = source.report.run, msgspec.to_builtins(evaluation)
    for split, metrics in parts(evaluation):
        fields = {
            "report": "standard input" if source.path == "-" else printable(source.path),
            "run": {"id": run.id, "created": run.created, "evalgpt": run.software.get("evalgpt")},
            "split": split,
            **{name: whole[name] for name in ("model", "task", "protocol")},
            "metrics": msgspec.to_builtins(metrics),
        }
        if not split:  # what is known of the whole alone is not repeated for its parts
            fields |= {name: whole[name] for name in ("ledger", "sample", "batch_tokens", "timing")}
            fields["verdicts"] = "; ".join(verdict.name for verdict in evaluation.verdicts)
            fields["notes"] = "; ".join(evaluation.notes)
            fields |= {name: whole[name] for name in ("peer", "task_metrics")}
        yield dict(_flat("", fields))


def _flat(path: str, value: object) -> Iterator[tuple[str, object]]:
    """(path, cell) of everything in ``value``."""
    if value is None and path in EMPTY:
        value = dict.fromkeys(EMPTY[path])
    if path in INTERVALS:
        low, high = value if isinstance(value, list | tuple) else (None, None)
        yield from ((f"{path}.low", low), (f"{path}.high", high))
    elif isinstance(value, Mapping) and path not in AS_JSON:
        for key, inner in value.items():
            yield from _flat(f"{path}.{visible(str(key))}" if path else str(key), inner)
    else:
        yield path, value


def _cell(value: object) -> str | int | float:
    """A cell: numbers as they are, null empty, text defused."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return ("'" if text.startswith(FORMULA) else "") + visible(text)
