"""``evalgpt.evaluate``: one model on one task. The command line calls what Python callers call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Unpack

from evalgpt.core import Detail, Model, Row, Task, UsageError
from evalgpt.core.answers import decode
from evalgpt.core.guard import calling, described
from evalgpt.core.options import choose_options
from evalgpt.core.plugins import built, default_plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.validation import check_task, documents_of, metrics_of, notes_of, numbers
from evalgpt.report import environment
from evalgpt.report.describe import model_info, task_info
from evalgpt.report.document import Evaluation, ProtocolInfo, Sample, TaskInfo, Timing, row_info
from evalgpt.report.faults import faults_of
from evalgpt.report.metrics import Ledger, Metrics, ledger, measure
from evalgpt.report.verdicts import Verdict, judge
from evalgpt.scoring.batching import BatchSize, Scorer, Work
from evalgpt.scoring.cache import ScoreCache
from evalgpt.scoring.engine import Plan, Progress, Result, all_windows, bind, plan_and_score, score_windows
from evalgpt.scoring.options import Changes, Options
from evalgpt.scoring.sampling import until_precise
from evalgpt.scoring.streaming import score_stream

__all__ = ["Numbers", "assemble", "built_task", "evaluate", "numbers_of", "scorer_for", "verdicts_of"]


STREAMED = (
    "a long text, scored part by part: the report keeps no rows and no losses of single tokens (--tokens keeps them)"
)


def evaluate(
    model: Model | str,
    task: Task | str,
    protocol: Protocol | str | None = None,
    options: Options | None = None,
    **changes: Unpack[Changes],
) -> Evaluation:
    """Measure how well ``model`` predicts the texts of ``task``.

    Args:
        model: a Model, or a spec such as ``"scratch:seed=7"``.
        task: a Task, or a spec such as ``"text:book.txt"``.
        protocol: a Protocol, or a spec such as ``"exact:stride=64"``; the task's own by default.
        options: how to evaluate: device, size of batches, precision and more (:class:`Options`).
        changes: fields of ``options`` to replace, as in ``device="cpu"``.

    Returns:
        The evaluation: ``.metrics.loss`` (nats per token), ``.metrics.perplexity``, ``.metrics.bits_per_byte``,
        ``.ledger``, ``.peer``, ``.rows`` and everything needed to repeat it.

    Raises:
        UsageError: the request cannot be met. EvaluationError: the text or the model cannot be evaluated.
        TypeError: an unknown keyword.
    """
    options = choose_options(Options, options, changes)
    model = built(model, options.device, options.dtype)
    task = built_task(task)
    if protocol is None or isinstance(protocol, str):
        protocol = default_plugins().protocol(protocol or task.default_protocol)
    bound = bind(protocol, model)
    model_info(model)  # what a report cannot hold is better known before the work than after it
    scorer = scorer_for(model, options.batch_tokens, options.cache)
    if _streams(task, bound, options):
        return _streamed(scorer, task, bound, options.progress)
    if options.detail is not None:
        scorer.detail = Detail(rank=True, entropy=True, top=options.detail.top)
    result = plan_and_score(scorer, documents_of(task), bound, partial(_score, scorer, options))
    evaluation = assemble(scorer, task, bound, result, tokens=options.tokens is not False)
    if options.detail is not None:
        options.detail.add(result.rows, partial(decode, model))
    return evaluation


def _score(scorer: Scorer, options: Options, plans: Sequence[Plan]) -> Sample | None:
    """Score the windows of ``plans``: all, or as many as the precision needs."""
    if options.precision is None:
        score_windows(scorer, plans, all_windows(plans), progress=options.progress)
        return None
    return until_precise(scorer, plans, options.precision, options.seed, options.progress, options.rarest)


def _streams(task: Task, bound: Protocol, options: Options) -> bool:
    """Whether the texts are too long to hold, and nothing is asked for that needs them whole."""
    whole = options.tokens or options.detail is not None or options.precision is not None
    return bool(task.long) and not whole and bound.stream([], None) is not None


def built_task(task: Task | str) -> Task:
    """``task``, built where it is a spec.

    Raises:
        UsageError: neither a task nor a spec. EvaluationError: the task cannot be built.
    """
    if isinstance(task, str):
        return default_plugins().task(task)
    if not isinstance(task, Task):
        raise UsageError(f"a task is an evalgpt.Task or a spec such as 'text:book.txt', not {described(task)}")
    check_task(task)
    return task


def _peer(protocol: Protocol, rows: Sequence[Row]) -> dict[str, float]:
    with calling(protocol, "peer()"):
        found = dict(protocol.peer(rows))
    return numbers(protocol, "peer()", list(found.items()))


def scorer_for(model: Model, batch_tokens: int | None, cache: ScoreCache | None) -> Scorer:
    """``model`` with its batch size and the scores kept of it.

    Raises:
        UsageError: ``batch_tokens`` is below zero.
    """
    memory = None if cache is None else cache.of(model, environment.software())
    return Scorer(model, BatchSize.of(model, batch_tokens), memory)


def _streamed(scorer: Scorer, task: Task, bound: Protocol, progress: Callable[[Progress], None] | None) -> Evaluation:
    """The evaluation of texts too long to hold: without rows."""
    found = score_stream(scorer, documents_of(task), bound, task.long, progress)
    useful = min(bound.default_context(scorer.model), found.longest)
    return Evaluation(
        model=model_info(scorer.model),
        task=TaskInfo(
            spec=task.spec or task.name,
            name=task.name,
            documents=found.documents,
            characters=found.characters,
            bytes=found.bytes,
            sha256=found.sha256,
        ),
        protocol=ProtocolInfo(name=bound.name, source=bound.source, settings=bound.settings()),
        metrics=found.metrics,
        splits={},
        peer={},
        task_metrics={},
        ledger=found.ledger,
        notes=[STREAMED, *_too_short(bound, found.ledger), *notes_of(task)],
        verdicts=judge(scorer.model, found.metrics, found.ledger, useful, found.faults),
        batch_tokens=scorer.size.tokens,
        timing=_timing(scorer.work, scorer.size, found.encoding_seconds, found.scoring_seconds),
        rows=[],
    )


def assemble(scorer: Scorer, task: Task, bound: Protocol, result: Result, *, tokens: bool = True) -> Evaluation:
    """The evaluation that ``result`` makes: its numbers, and all that is needed to repeat it."""
    model, sample = scorer.model, result.sample
    numbers = numbers_of(bound, task, result.rows, part=sample is not None)
    return Evaluation(
        model=model_info(model),
        task=task_info(task, result.documents),
        protocol=ProtocolInfo(name=bound.name, source=bound.source, settings=bound.settings()),
        metrics=numbers.metrics,
        splits=numbers.splits,
        peer=numbers.peer,
        task_metrics=numbers.task_metrics,
        ledger=numbers.ledger,
        notes=numbers.notes,
        verdicts=verdicts_of(model, bound, result.rows, numbers, part=sample is not None),
        sample=sample,
        batch_tokens=scorer.size.tokens,
        timing=_timing(result.work, scorer.size, result.encoding_seconds, result.scoring_seconds),
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
    notes: list[str]


def numbers_of(protocol: Protocol, task: Task, rows: Sequence[Row], *, part: bool = False) -> Numbers:
    """The numbers of ``rows``, scored under ``protocol``, as bound to their model.

    With ``part`` of the windows scored, other tools and the task have no number: theirs are of whole texts.
    """
    counted = ledger(rows)
    return Numbers(
        metrics=measure(rows),
        splits={split: measure(some) for split, some in _by_split(rows).items() if split},
        peer={} if part else _finite(_peer(protocol, rows)),
        task_metrics={} if part else _finite(metrics_of(task, rows)),
        ledger=counted,
        notes=[*_notes(protocol, rows, counted, part), *notes_of(task)],
    )


def verdicts_of(
    model: Model, protocol: Protocol, rows: Sequence[Row], numbers: Numbers, *, part: bool = False
) -> list[Verdict]:
    """What looks wrong with ``numbers``; of a sample, not that most was left out."""
    useful = min(protocol.default_context(model), max(len(row.ids) for row in rows))
    found = judge(model, numbers.metrics, numbers.ledger, useful, faults_of(model, rows))
    return [verdict for verdict in found if not (part and verdict.name == "mostly_unscored")]


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """``numbers`` with None for what JSON cannot hold."""
    return {key: float(value) if math.isfinite(value) else None for key, value in numbers.items()}


def _by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    splits: dict[str, list[Row]] = {}
    for row in rows:
        if row.windows:
            splits.setdefault(row.split, []).append(row)
    return splits


def _timing(work: Work, size: BatchSize, encoding_seconds: float, scoring_seconds: float) -> Timing:
    seconds = max(scoring_seconds, 1e-9)
    return Timing(
        encoding_seconds=encoding_seconds,
        scoring_seconds=scoring_seconds,
        tokens_per_second=work.scores / seconds,
        fed_tokens_per_second=work.fed_tokens / seconds,
        computed_scores=work.scores,
        recalled_scores=work.recalled,
        failed_batch_tokens=size.failed or 0,
    )


def _too_short(protocol: Protocol, counted: Ledger) -> list[str]:
    if not counted.unscored_pieces:
        return []
    few, all_ = counted.unscored_pieces, counted.pieces
    return [f"{few} of {all_} texts are too short for protocol {protocol.name} and were not scored"]


def _notes(protocol: Protocol, rows: Sequence[Row], counted: Ledger, part: bool) -> list[str]:
    """What a reader of the numbers must know and the numbers do not say."""
    with calling(protocol, "notes()"):
        notes = [str(note) for note in protocol.notes(rows)]
    if not part:  # in a sample it may be chance
        notes += _too_short(protocol, counted)
    if counted.twice:
        notes.append(f"{counted.twice} tokens were scored more than once")
    return notes
