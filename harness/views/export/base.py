"""What the exports to other tools' formats share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from evalgpt.core import UsageError
from evalgpt.report.document import Evaluation, ModelInfo, Report
from evalgpt.report.metrics import Metrics

__all__ = ["Exported", "Source", "accuracies", "by_model", "called", "file_name", "made", "parts", "to_text"]


@dataclass(frozen=True, slots=True)
class Source:
    """A report, and the name it was read from."""

    path: str
    report: Report


@dataclass(frozen=True, slots=True)
class Exported:
    """One file of an export: its name in a folder, as the tool names such files, and its bytes."""

    name: str
    data: bytes


def made(source: Source) -> datetime:
    """When the run began.

    Raises:
        UsageError: ``run.created`` is no date.
    """
    try:
        found = datetime.fromisoformat(source.report.run.created)
    except ValueError:
        raise UsageError(f"{source.path} has no date in run.created: {source.report.run.created!r}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def called(model: ModelInfo) -> str:
    return model.spec or model.name


def by_model(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The evaluations of each model, in the order of the models."""
    found: dict[tuple[str, str, str], list[Evaluation]] = {}
    for e in evaluations:
        found.setdefault((e.model.spec, e.model.name, e.model.fingerprint), []).append(e)
    return list(found.values())


def parts(evaluation: Evaluation) -> Iterator[tuple[str, Metrics]]:
    """The whole, called by the empty name, then each split."""
    yield "", evaluation.metrics
    yield from evaluation.splits.items()


def accuracies(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """The numbers of minimal pairs, by paradigm (empty for all of them): ``pairs``, ``accuracy``, ``accuracy_low``, ...

    Empty where the task is not one of pairs.
    """
    found: dict[str, dict[str, float]] = {}
    for key, value in evaluation.task_metrics.items():
        paradigm, _, name = key.rpartition(".")
        if value is not None:
            found.setdefault(paradigm, {})[name] = value
    complete = {name: numbers for name, numbers in found.items() if {"pairs", "accuracy"} <= numbers.keys()}
    return {"": complete.pop(""), **complete} if "" in complete else {}


def file_name(text: str) -> str:
    """``text`` as a part of a file name, on any system, at most 80 characters."""
    return re.sub(r"[^\w.=-]+", "_", text, flags=re.ASCII).strip("._")[:80] or "unnamed"


def to_text(document: dict[str, Any]) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
