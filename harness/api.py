"""``evalgpt.evaluate``: one model on one task. The command line calls what Python callers call."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from evalgpt import environment
from evalgpt.core import Document, Model, Row, Task, UsageError
from evalgpt.engine import DEFAULT_BATCH_TOKENS, Progress, Result, score_documents
from evalgpt.metrics import Ledger, Metrics, ledger, measure
from evalgpt.plugins import default_plugins
from evalgpt.protocols import Protocol
from evalgpt.report import Evaluation, ModelInfo, ProtocolInfo, Report, Run, TaskInfo, Timing, row_info
from evalgpt.specs import printable
from evalgpt.verdicts import judge

__all__ = ["Numbers", "batch_size", "evaluate", "make_report", "numbers_of", "text_hash"]


def evaluate(
    model: Model | str,
    task: Task | str,
    protocol: Protocol | str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_tokens: int | None = None,
    tokens: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Measure how well ``model`` predicts the texts of ``task``.

    Args:
        model: a Model, or a spec such as ``"scratch:seed=7"``.
        task: a Task, or a spec such as ``"text:book.txt"``.
        protocol: a Protocol, or a spec such as ``"exact:stride=64"``; the task's own by default.
        device, dtype: passed on to a model given as a spec (``"cuda"``, ``"bfloat16"``).
        batch_tokens: how many tokens, padding included, are fed at once; by default what suits the device.
        tokens: keep ids, byte spans and losses of single tokens in the result.
        progress: called after each batch.

    Returns:
        The evaluation: ``.metrics.loss`` (nats per token), ``.metrics.perplexity``, ``.metrics.bits_per_byte``,
        ``.ledger``, ``.peer``, ``.rows`` and everything needed to repeat it.

    Raises:
        UsageError: the request cannot be met. EvaluationError: the text or the model cannot be evaluated.
    """
    if isinstance(model, str):
        model = default_plugins().model(model, device=device, dtype=dtype)
    elif device is not None or dtype is not None:
        raise UsageError("device and dtype go with a model given as a spec; this model is already built")
    if isinstance(task, str):
        task = default_plugins().task(task)
    if protocol is None or isinstance(protocol, str):
        protocol = default_plugins().protocol(protocol or task.default_protocol)
    batch_tokens = batch_size(model, batch_tokens)
    bound = protocol.bind(model)
    _model_info(model)  # what a report cannot hold is better known before the work than after it
    result = score_documents(model, task.documents(), bound, batch_tokens=batch_tokens, progress=progress)
    numbers = numbers_of(bound, task, result.rows)
    return Evaluation(
        model=_model_info(model),
        task=_task_info(task, result.documents),
        protocol=ProtocolInfo(name=bound.name, source=bound.source, settings=bound.settings()),
        metrics=numbers.metrics,
        splits=numbers.splits,
        peer=numbers.peer,
        task_metrics=numbers.task_metrics,
        ledger=numbers.ledger,
        notes=_notes(bound, result, numbers.ledger),
        verdicts=judge(model, result.rows, numbers.metrics, numbers.ledger),
        batch_tokens=batch_tokens,
        timing=_timing(result, numbers.ledger),
        rows=[row_info(row, tokens=tokens) for row in result.rows],
    )


@dataclass(frozen=True, slots=True)
class Numbers:
    """Everything in an evaluation that follows from its rows."""

    metrics: Metrics
    splits: dict[str, Metrics]
    peer: dict[str, float | None]
    task_metrics: dict[str, float | None]
    ledger: Ledger


def numbers_of(protocol: Protocol, task: Task, rows: Sequence[Row]) -> Numbers:
    """The numbers of ``rows``, scored under ``protocol``, as bound to their model."""
    return Numbers(
        metrics=measure(rows),
        splits={split: measure(part) for split, part in _by_split(rows).items() if split},
        peer=_finite(protocol.peer(rows)),
        task_metrics=_finite(task.metrics(rows)),
        ledger=ledger(rows),
    )


def batch_size(model: Model, wanted: int | None) -> int:
    """How many tokens, padding included, to feed ``model`` at once: ``wanted``, or what suits its device.

    Raises:
        UsageError: ``wanted`` is less than 1.
    """
    if wanted is None:
        return DEFAULT_BATCH_TOKENS.get(model.device.split(":")[0], DEFAULT_BATCH_TOKENS["cpu"])
    if wanted < 1:
        raise UsageError(f"batch_tokens must be at least 1, not {wanted}")
    return wanted


def make_report(evaluations: Sequence[Evaluation], command: Sequence[str] = ()) -> Report:
    """A report of ``evaluations`` made in this process, now."""
    run = Run(
        id=str(uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=[printable(part) for part in command],
        software=environment.software(),
        hardware=environment.hardware(),
    )
    return Report(run=run, evaluations=list(evaluations))


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """``numbers`` with None for what JSON cannot hold."""
    return {key: float(value) if math.isfinite(value) else None for key, value in numbers.items()}


def _by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    splits: dict[str, list[Row]] = {}
    for row in rows:
        if row.windows:
            splits.setdefault(row.split, []).append(row)
    return splits


def _model_info(model: Model) -> ModelInfo:
    plain: dict[str, Any] = {
        key: msgspec.to_builtins(dict(getattr(model, key)), enc_hook=_plain)
        for key in ("config", "tokenizer", "runtime")
    }
    prefix = None if model.prefix_id is None else int(model.prefix_id)
    return ModelInfo(
        spec=model.spec or model.name,
        name=model.name,
        fingerprint=model.fingerprint,
        context_length=int(model.context_length),
        vocab_size=int(model.vocab_size),
        prefix_id=prefix,
        prefix=None if prefix is None else model.decode([prefix]),
        adds_bos=bool(model.adds_bos),
        trained=None if model.trained is None else bool(model.trained),
        device=model.device,
        dtype=model.dtype,
        **plain,
    )


def _plain(value: object) -> object:
    """What JSON holds in place of ``value``: a numpy or torch scalar as a number, a dtype and the like as text."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)


def _task_info(task: Task, documents: Sequence[Document]) -> TaskInfo:
    return TaskInfo(
        spec=task.spec or task.name,
        name=task.name,
        documents=len(documents),
        characters=sum(len(d.text) for d in documents),
        bytes=sum(len(d.text.encode()) for d in documents),
        sha256=text_hash(documents),
    )


def text_hash(documents: Sequence[Document]) -> str:
    """The hash by which a report knows its text; see :class:`~evalgpt.report.TaskInfo`."""
    if len(documents) == 1 and not documents[0].context:
        return hashlib.sha256(documents[0].text.encode()).hexdigest()
    digest = hashlib.sha256()
    for document in documents:
        hashes = [hashlib.sha256(part.encode()).hexdigest() for part in (document.context, document.text)]
        digest.update(f"{hashes[0]}\t{hashes[1]}\n".encode())
    return digest.hexdigest()


def _timing(result: Result, counted: Ledger) -> Timing:
    seconds = max(result.scoring_seconds, 1e-9)
    return Timing(
        encoding_seconds=result.encoding_seconds,
        scoring_seconds=result.scoring_seconds,
        tokens_per_second=counted.scores / seconds,
        fed_tokens_per_second=result.fed_tokens / seconds,
    )


def _notes(protocol: Protocol, result: Result, counted: Ledger) -> list[str]:
    """What a reader of the numbers must know and the numbers do not say."""
    notes = list(protocol.notes(result.rows))
    if counted.unscored_pieces:
        notes.append(
            f"{counted.unscored_pieces} of {counted.pieces} texts are too short for protocol {protocol.name} "
            f"and were not scored"
        )
    if counted.twice:
        notes.append(f"{counted.twice} tokens were scored more than once")
    return notes
