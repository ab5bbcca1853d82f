"""Reports as the results JSON that ``lm_eval --output_path`` writes.

Source of the fields: lm_eval/result_schema.py (EvalResults) and lm_eval/loggers/evaluation_tracker.py of 0.4.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from evalgpt.core import UsageError
from evalgpt.report.document import Evaluation, describe_protocol
from evalgpt.report.metrics import Metrics
from evalgpt.views.export.base import Exported, Source, accuracies, by_model, called, made, parts, to_text

__all__ = ["to_lm_eval"]


NO_ERROR = "N/A"
"""What lm-eval writes for the standard error of a metric that has none."""

ROLLING = ("word_perplexity", "byte_perplexity", "bits_per_byte")

CHOICE = {"acc": "accuracy", "acc_bytes": "accuracy_per_byte"}

PROTOCOL = "lm-eval"

BY_TASK = (
    *("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"),
    *("task_hashes", "evalgpt"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of results: a task, or a part of one, with lm-eval's metrics and the number of its documents."""

    key: str
    alias: str
    metrics: Mapping[str, float]
    original: int
    effective: int


def to_lm_eval(sources: Sequence[Source]) -> list[Exported]:
    """One file for each model of each report, as lm-eval writes one for each run.

    Under the protocol lm-eval the numbers are ``peer``, as lm-eval counts words; under others they are evalgpt's
    own, over the scored tokens, and the task's alias says under which.

    Raises:
        UsageError: an evaluation has none of the metrics that lm-eval has, or a report no date.
    """
    return [_file(source, found) for source in sources for found in by_model(source.report.evaluations)]


def _file(source: Source, evaluations: Sequence[Evaluation]) -> Exported:
    model, run, date = evaluations[0].model, source.report.run, made(source)
    name = called(model)
    sanitized = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)  # lm_eval.utils.sanitize_model_name
    document: dict[str, Any] = {
        **_tasks(source, evaluations),
        "config": {
            "model": "evalgpt",
            "model_args": name,
            "model_dtype": model.dtype,
            "model_sha": model.fingerprint,
            "batch_size": None,
            "batch_sizes": [],
            "device": model.device,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": None,
        },
        "git_hash": NO_ERROR,
        "date": date.timestamp(),
        "pretty_env_info": "\n".join(f"{key}: {value}" for key, value in (run.software | run.hardware).items()),
        "upper_git_hash": None,
        "max_length": model.context_length,
        "model_source": "evalgpt",
        "model_name": name,
        "model_name_sanitized": sanitized,
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(
            sum(e.timing.encoding_seconds + e.timing.scoring_seconds for e in evaluations)
        ),
    }
    if "transformers" in run.software:
        document["transformers_version"] = run.software["transformers"]
    folder = sanitized.encode()[:200].decode(errors="ignore").replace("\0", "_")
    safe = folder if folder.strip(".") else "unnamed"
    return Exported(f"{safe}/results_{date.isoformat().replace(':', '-')}.json", to_text(document))


def _tasks(source: Source, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """What lm-eval keeps by task, and under ``evalgpt`` all of each evaluation but its rows."""
    by: dict[str, dict[str, Any]] = {name: {} for name in BY_TASK}
    for e in evaluations:
        whole, *rest = _entries(source, e, by["results"])
        for entry in (whole, *rest):
            key = entry.key
            by["results"][key] = _numbers(entry)
            by["configs"][key] = _config(e, key)
            by["versions"][key] = source.report.run.software.get("evalgpt")
            by["n-shot"][key] = 0
            by["higher_is_better"][key] = {name: name in CHOICE for name in entry.metrics}
            by["n-samples"][key] = {"original": entry.original, "effective": entry.effective}
        by["group_subtasks"][whole.key] = [part.key for part in rest]
        by["task_hashes"][whole.key] = e.task.sha256
        by["evalgpt"][whole.key] = {k: v for k, v in msgspec.to_builtins(e).items() if k != "rows"}
        if rest:
            by["groups"][whole.key] = _numbers(whole)
    if not by["groups"]:
        del by["groups"]
    return by


def _numbers(entry: Entry) -> dict[str, str | int | float]:
    numbers: dict[str, str | int | float] = {"name": entry.key, "alias": entry.alias, "sample_len": entry.effective}
    for name, value in entry.metrics.items():
        numbers |= {f"{name},none": value, f"{name}_stderr,none": NO_ERROR}
    return numbers


def _config(evaluation: Evaluation, key: str) -> dict[str, str | bool | None]:
    given = any(row.context_bytes for row in evaluation.rows)
    kind = "multiple_choice" if accuracies(evaluation) else "loglikelihood" if given else "loglikelihood_rolling"
    return {
        "task": key,
        "dataset_path": evaluation.task.spec,
        "dataset_name": None,
        "output_type": kind,
        "description": f"evalgpt, protocol {_protocol(evaluation)}",
        "should_decontaminate": False,
    }


def _entries(source: Source, evaluation: Evaluation, taken: Mapping[str, Any]) -> list[Entry]:
    task = evaluation.task.spec or evaluation.task.name
    alias = task
    if not _as_lm_eval(evaluation):
        alias += f" (protocol {_protocol(evaluation)})"
    found = _choices(evaluation) or _texts(evaluation)
    keys: list[str] = []
    entries = []
    for part, metrics, original, effective in found:
        if not metrics:
            raise UsageError(
                f"{source.path} has nothing to export to lm-eval of {called(evaluation.model)} on {task}: it knows "
                f"accuracies of minimal pairs, {', '.join(ROLLING[:-1])} and {ROLLING[-1]}, and all of them are null"
            )
        key = _unused(f"{keys[0]}_{part}" if part else task, {*taken, *keys})
        keys.append(key)
        entries.append(Entry(key, part or alias, metrics, original, effective))
    return entries


def _as_lm_eval(evaluation: Evaluation) -> bool:
    """Whether lm-eval itself would give the numbers: a part of a text has no ``peer``."""
    return evaluation.protocol.name == PROTOCOL and evaluation.sample is None


def _protocol(evaluation: Evaluation) -> str:
    part = evaluation.sample
    told = "" if part is None else f", {part.windows} of {part.of} windows"
    return describe_protocol(evaluation) + told


def _unused(name: str, taken: set[str]) -> str:
    numbered = (name, *(f"{name} #{number}" for number in range(2, len(taken) + 2)))
    return next(one for one in numbered if one not in taken)


def _choices(evaluation: Evaluation) -> list[tuple[str, dict[str, float], int, int]]:
    """(paradigm, metrics, pairs, pairs) of minimal pairs."""
    return [
        (paradigm, {ours: numbers[theirs] for ours, theirs in CHOICE.items() if theirs in numbers}, *(pairs, pairs))
        for paradigm, numbers in accuracies(evaluation).items()
        for pairs in (int(numbers["pairs"]),)
    ]


def _texts(evaluation: Evaluation) -> list[tuple[str, dict[str, float], int, int]]:
    """(split, metrics, documents, those of which a token was scored)."""
    found = []
    for split, metrics in parts(evaluation):
        rows = [row for row in evaluation.rows if not split or row.split == split]
        original = len({row.id for row in rows}) if split else evaluation.task.documents
        scored = len({row.id for row in rows if row.scores})
        found.append((split, _rolling(evaluation, split, metrics), original, scored))
    return found


def _rolling(evaluation: Evaluation, split: str, metrics: Metrics) -> dict[str, float]:
    numbers: Mapping[str, float | None] = {name: getattr(metrics, name) for name in ROLLING}
    if _as_lm_eval(evaluation) and not split:
        numbers = {name: evaluation.peer.get(name) for name in ROLLING}
    return {name: value for name, value in numbers.items() if value is not None}
