"""Is a report true? Its model, text and windows are made again, its losses scored again, its numbers taken again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

from evalgpt.core import Document, EvaluationError, Model, Task
from evalgpt.core.options import choose_options
from evalgpt.core.protocol import Protocol
from evalgpt.core.rounding import tolerance_of
from evalgpt.core.validation import documents_of
from evalgpt.report.describe import task_info
from evalgpt.report.document import Evaluation, row_info
from evalgpt.scoring.batching import BatchSize, Scorer
from evalgpt.scoring.engine import Plan, Progress, bind, plan_windows, row_of, score_windows
from evalgpt.scoring.evaluate import evaluate, numbers_of, verdicts_of
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

__all__ = ["VerificationChanges", "VerificationOptions", "verify"]


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """The options of :func:`verify`.

    Args:
        windows: score as many windows again, drawn with ``seed``; all by default.
        tolerance: nats by which a loss may differ; by default what rounding does to the report's dtype.
        progress: called after each batch.
    """

    windows: int | None = None
    seed: int = 0
    tolerance: float | None = None
    progress: Callable[[Progress], None] | None = None


class VerificationChanges(TypedDict, total=False):
    """The fields of :class:`VerificationOptions` as keywords, so that a type checker knows them."""

    windows: int | None
    seed: int
    tolerance: float | None
    progress: Callable[[Progress], None] | None


def verify(
    evaluation: Evaluation,
    model: Model,
    task: Task,
    protocol: Protocol,
    options: VerificationOptions | None = None,
    **changes: Unpack[VerificationChanges],
) -> Verified:
    """Compare ``evaluation`` with what ``model`` says now of ``task``'s text under ``protocol``, not yet bound.

    Raises:
        EvaluationError: the report does not hold; the message names the first of weights, text, protocol, tokens,
            windows, losses and numbers that differs.
    """
    options = choose_options(VerificationOptions, options, changes)
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
        check_sample(evaluation, draw, plans, stored)
    chosen = [(plan, i) for plan in plans for i in range(len(plan.windows))]
    if options.windows is not None:
        if stored is None:
            raise EvaluationError("the report keeps no losses of single tokens: verify it without --quick")
        chosen = random.Random(options.seed).sample(chosen, min(options.windows, len(chosen)))  # noqa: S311
    score_windows(Scorer(model, BatchSize(evaluation.batch_tokens)), chosen, progress=options.progress)
    check_config(evaluation, model)  # after a score: an adapter may say in it how it scored
    if stored is None:
        close = max(mean_bound(allowed, evaluation.metrics.scores), SAME)
        if draw is not None:
            check_sample(evaluation, draw, plans, [plan.nll for plan in plans], 10 * close)
        check_numbers(evaluation, _derived(evaluation, model, bound, task, plans), close)
        return Verified(0, evaluation.metrics.scores, 0.0, 0.0, close)
    found = check_losses(plans, chosen, stored, allowed)
    for plan, losses in zip(plans, stored, strict=True):
        plan.nll = losses
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
