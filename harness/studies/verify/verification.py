"""Is a report true? Its model, text and windows are made again, its losses scored again, its numbers taken again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

from evalgpt.core import Document, EvaluationError, Model, Task, TokenScores, UsageError
from evalgpt.core.options import choose_options
from evalgpt.core.plugins import built, default_plugins
from evalgpt.core.protocol import Protocol
from evalgpt.core.rounding import tolerance_of
from evalgpt.core.validation import documents_of
from evalgpt.report.describe import only_evaluation, task_info
from evalgpt.report.document import Evaluation, Report, keeps_tokens, row_info
from evalgpt.scoring.batching import BatchSize, Scorer
from evalgpt.scoring.engine import Plan, Progress, all_windows, bind, plan_windows, row_of, score_windows
from evalgpt.scoring.evaluate import built_task, evaluate, numbers_of, verdicts_of
from evalgpt.studies.verify.checks import (
    SAME,
    Verified,
    check_config,
    check_losses,
    check_model,
    check_numbers,
    check_sample,
    check_settings,
    check_text,
    check_windows,
    keep_drawn,
    mean_bound,
)
from evalgpt.studies.verify.rebuild import rebuild_model, rebuild_protocol, rebuild_task

__all__ = ["VerificationChanges", "VerificationOptions", "verify"]


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """The options of :func:`verify`.

    Args:
        windows: score as many windows again, drawn with ``seed``; all by default.
        tolerance: nats by which a loss may differ; by default what rounding does to the report's dtype.
        device: passed on to a model given as a spec, or built as the report names it.
        progress: called after each batch.
    """

    windows: int | None = None
    seed: int = 0
    tolerance: float | None = None
    device: str | None = None
    progress: Callable[[Progress], None] | None = None

    def check(self) -> None:
        """Raise UsageError for what is out of range."""
        if self.windows is not None and self.windows < 1:
            raise UsageError(f"windows must be at least 1, not {self.windows}")
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise UsageError(f"tolerance takes nats per token from 0 up, not {self.tolerance}")


class VerificationChanges(TypedDict, total=False):
    """The fields of :class:`VerificationOptions` as keywords, so that a type checker knows them."""

    windows: int | None
    seed: int
    tolerance: float | None
    device: str | None
    progress: Callable[[Progress], None] | None


def verify(
    report: Report | Evaluation,
    model: Model | str | None = None,
    task: Task | str | None = None,
    protocol: Protocol | str | None = None,
    options: VerificationOptions | None = None,
    **changes: Unpack[VerificationChanges],
) -> Verified:
    """Make an evaluation again and compare: weights, text, windows, every loss, every number.

    Args:
        report: an evaluation, or a report with one.
        model, task, protocol: what to make it with, built or as specs; by default those that the report names, so that
            relative paths are looked for from the current folder.
        options: which windows to score again, and by how much losses may differ (:class:`VerificationOptions`).
        changes: fields of ``options`` to replace, as in ``windows=16``.

    Returns:
        How many losses were compared, and by how many nats they differ at most and on average.

    Raises:
        EvaluationError: the report does not hold; the message names the first of weights, text, protocol, tokens,
            windows, losses and numbers that differs.
        UsageError: it cannot be told: the model or the text is not there, or an option is out of range.
        TypeError: an unknown keyword.
    """
    options = choose_options(VerificationOptions, options, changes)
    options.check()
    evaluation = only_evaluation(report)
    if options.windows is not None and not keeps_tokens(evaluation):
        raise UsageError("it keeps no losses of single tokens, so all is scored again; leave out windows (--quick)")
    model = _model(evaluation, model, options.device)
    task = rebuild_task(default_plugins(), evaluation) if task is None else built_task(task)
    if protocol is None:
        protocol = rebuild_protocol(default_plugins(), evaluation, model)
    elif isinstance(protocol, str):
        protocol = default_plugins().protocol(protocol)
    return _verify(evaluation, model, task, protocol, options)


def _model(evaluation: Evaluation, model: Model | str | None, device: str | None) -> Model:
    if model is None or isinstance(model, str):
        return rebuild_model(default_plugins(), evaluation, model or evaluation.model.spec, device)
    return built(model, device, None)


def _verify(
    evaluation: Evaluation, model: Model, task: Task, protocol: Protocol, options: VerificationOptions
) -> Verified:
    """As :func:`verify`, of what is built; ``protocol`` is not yet bound."""
    allowed = tolerance_of(evaluation.model.dtype) if options.tolerance is None else options.tolerance
    check_model(evaluation, model)
    bound = bind(protocol, model)
    if not evaluation.rows:
        check_settings(evaluation, bound)
        return _verify_streamed(evaluation, model, task, protocol, allowed, options.progress)
    documents = _documents(evaluation, task)
    check_settings(evaluation, bound)
    plans = plan_windows(model, documents, bound)
    draw = keep_drawn(evaluation, plans)
    stored = check_windows(evaluation, plans)
    if draw is not None and stored is not None:
        check_sample(evaluation, draw, stored)
    chosen = all_windows(plans)
    if options.windows is not None:
        chosen = random.Random(options.seed).sample(chosen, min(options.windows, len(chosen)))  # noqa: S311
    score_windows(Scorer(model, BatchSize(evaluation.batch_tokens)), plans, chosen, progress=options.progress)
    check_config(evaluation, model)  # after a score: an adapter may say in it how it scored
    if stored is None:
        close = max(mean_bound(allowed, evaluation.metrics.scores), SAME)
        if draw is not None:
            scored = [[scores.nll for scores in plan.scores] for plan in plans]
            check_sample(evaluation, draw, scored, 10 * close)
        check_numbers(evaluation, _derived(evaluation, model, bound, task, plans), close)
        return Verified(0, evaluation.metrics.scores, 0.0, 0.0, close)
    found = check_losses(plans, chosen, stored, allowed)
    for plan, losses in zip(plans, stored, strict=True):
        plan.scores = [TokenScores(nll) for nll in losses]
    check_numbers(evaluation, _derived(evaluation, model, bound, task, plans), None)
    return found


def _verify_streamed(
    evaluation: Evaluation,
    model: Model,
    task: Task,
    protocol: Protocol,
    allowed: float,
    progress: Callable[[Progress], None] | None,
) -> Verified:
    """A long text has no rows: all of it is scored again, part by part."""
    try:
        now = evaluate(model, task, protocol, batch_tokens=evaluation.batch_tokens, progress=progress)
    except EvaluationError as error:
        raise EvaluationError(f"text: {error}") from error
    check_text(evaluation, now.task)
    check_config(evaluation, model)
    close = max(mean_bound(allowed, evaluation.metrics.scores), SAME)
    names = ("metrics", "splits", "peer", "task_metrics", "ledger", "verdicts", "rows")
    check_numbers(evaluation, {name: getattr(now, name) for name in names}, close)
    return Verified(0, evaluation.metrics.scores, 0.0, 0.0, close)


def _derived(
    evaluation: Evaluation, model: Model, bound: Protocol, task: Task, plans: Sequence[Plan]
) -> dict[str, Any]:
    """The fields of an evaluation that follow from the plans' losses."""
    rows = [row_of(plan) for plan in plans]
    part = evaluation.sample is not None
    tokens = any(row.tokenized is not None for row in evaluation.rows)
    numbers = numbers_of(bound, task, rows, part=part)
    return {
        **asdict(numbers),
        "rows": [row_info(row, tokens=tokens) for row in rows],
        "verdicts": verdicts_of(model, bound, rows, numbers, part=part),
    }


def _documents(evaluation: Evaluation, task: Task) -> list[Document]:
    try:
        documents = list(documents_of(task))
    except EvaluationError as error:
        raise EvaluationError(f"text: {error}") from error
    check_text(evaluation, task_info(task, documents))
    return documents
