"""The formats of ``evalgpt export``, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from evalgpt.report.targets import Existing, Kind, marked_kind
from evalgpt.views.export.base import Exported, Source
from evalgpt.views.export.csv import to_csv
from evalgpt.views.export.inspect import to_inspect
from evalgpt.views.export.lm_eval import to_lm_eval
from evalgpt.views.export.markdown import BEGINS, to_markdown

__all__ = ["FORMATS", "Format"]


class Format(NamedTuple):
    """A format: ``make`` gives the files, ``kind`` recognises an earlier one, ``holds`` says what one file holds."""

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
