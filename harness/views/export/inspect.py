"""Reports as logs of inspect_ai, for its reader, its viewer and its data frames.

Source of the fields: inspect_ai/log/_log.py (EvalLog, version 2), of 0.3.69 and 0.3.285.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from evalgpt.report.document import Evaluation, RowInfo
from evalgpt.report.metrics import Metrics
from evalgpt.views.export.base import Exported, Source, called, file_name, made, parts, to_text

__all__ = ["to_inspect"]


SCORER = "evalgpt"

NOT_NUMBERS = ("uncertainty",)

INTERVALS = ("loss", "perplexity", "bits_per_byte")


def to_inspect(sources: Sequence[Source]) -> list[Exported]:
    """One log for each evaluation, with one sample for each piece of text.

    The metrics of the whole are the score ``evalgpt``, those of a split the score named like it, and ``peer`` and the
    task's own are scores too. A metric's interval is its ``metadata``; a metric that is null is left out, since inspect
    wants a number. Texts are in the samples where the report keeps them.

    Raises:
        UsageError: a report has no date.
    """
    return [_log(source, number) for source in sources for number in range(len(source.report.evaluations))]


def _log(source: Source, number: int) -> Exported:
    e, run, date = source.report.evaluations[number], source.report.run, made(source)
    task = e.task.spec or e.task.name
    identity = hashlib.sha256(f"{run.id}\0{number}".encode()).hexdigest()[:22]  # as long as inspect's own
    when = date.isoformat(timespec="seconds")
    scores = list(_scores(e))
    document = {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": run.id,
            "created": when,
            "task": task,
            "task_id": identity,
            "dataset": {
                "name": e.task.name,
                "location": e.task.spec,
                "samples": len(e.rows),
                "sample_ids": [_sample_id(row) for row in e.rows],
                "shuffled": False,
            },
            "model": called(e.model),
            "config": {},
            "packages": run.software,
            "metadata": {"report": source.report.schema, "command": run.command, "hardware": run.hardware}
            | {"model": msgspec.to_builtins(e.model), "sha256": e.task.sha256},
            "scorers": [{"name": SCORER}],
        },
        "plan": {
            "name": "plan",
            "steps": [{"solver": e.protocol.name, "params": e.protocol.settings}],
            "config": {},
        },
        "results": {
            "total_samples": len(e.rows),
            "completed_samples": len(e.rows),
            "scores": scores,
            "metadata": {name: msgspec.to_builtins(getattr(e, name)) for name in ("ledger", "notes", "verdicts")}
            | {"sample": msgspec.to_builtins(e.sample), "timing": msgspec.to_builtins(e.timing)},
        },
        "stats": {"started_at": when, "completed_at": "", "model_usage": {}},
        "samples": [_sample(row) for row in e.rows],
    }
    name = f"{when.replace(':', '-')}_{file_name(task).replace('_', '-')}_{identity}.json"
    return Exported(name, to_text(document))


def _scores(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for split, metrics in parts(evaluation):
        yield _score(split or SCORER, _measured(metrics))
    if evaluation.peer:
        yield _score(f"as {evaluation.protocol.source} counts it", _plain(evaluation.peer))
    if evaluation.task_metrics:
        yield _score(evaluation.task.name, _plain(evaluation.task_metrics))


def _score(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "scorer": SCORER, "metrics": metrics}


def _measured(metrics: Metrics) -> dict[str, Any]:
    numbers = {name: value for name, value in msgspec.to_builtins(metrics).items() if name not in NOT_NUMBERS}
    found = _plain(numbers)
    spread = metrics.uncertainty
    if spread is not None:
        for name in INTERVALS:
            known = {"interval": getattr(spread, name), "level": spread.level, "method": spread.method}
            if name in found:
                found[name]["metadata"] = known
    return found


def _plain(values: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: {"name": name, "value": value} for name, value in values.items() if value is not None}


def _sample_id(row: RowInfo) -> str:
    return f"{row.id} ({row.split})" if row.split else row.id


def _sample(row: RowInfo) -> dict[str, Any]:
    """A piece of text; its loss in nats is its score."""
    known = {name: getattr(row, name) for name in row.__struct_fields__ if name not in ("id", "loss", "tokenized")}
    return {
        "id": _sample_id(row),
        "epoch": 1,
        "input": (row.tokenized.text if row.tokenized is not None else None) or "",
        "target": "",
        "messages": [],
        "output": {"model": "", "choices": []},
        "scores": {SCORER: {"value": row.loss}} if row.loss is not None else {},
        "metadata": known,
    }
