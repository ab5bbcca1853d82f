"""How far one model's predictions are from another's: the KL divergence, in one pass over the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Diverges, Document, EvaluationError, Model, UsageError
from evalgpt.core.answers import encode
from evalgpt.core.guard import calling
from evalgpt.core.protocol import Protocol
from evalgpt.report.repeats import contents_of, originals_of
from evalgpt.scoring.batching import BatchSize, batches
from evalgpt.scoring.engine import (
    Plan,
    Progress,
    Reporter,
    all_windows,
    answer_batches,
    plan_windows,
    row_of,
    windows_at,
)
from evalgpt.studies.compare.comparison import Divergence, summarise

__all__ = ["check_models", "diverge"]

KL = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Of a window's scored tokens: the divergence (nats), and whether both models hold the same token likeliest."""


def diverge(
    models: tuple[Model, Model],
    documents: Sequence[Document],
    protocol: Protocol,
    *,
    size: BatchSize,
    progress: Callable[[Progress], None] | None = None,
) -> Divergence:
    """KL(P || Q) of the second model's predictions Q from the first's P, over the windows of ``protocol``.

    Both models run on each batch and the vocabulary is walked once for the two; no logits of tokens x vocabulary are
    held where both give states and an unembedding. ``protocol`` is bound to the first model.

    Raises:
        UsageError: a model gives no distributions, or the two do not share vocabulary and tokenizer.
    """
    first = check_models(models)
    plans = plan_windows(models[0], documents, protocol)
    _check_ids(models, plans)
    windows = windows_at(plans, all_windows(plans))
    found: list[KL] = [(np.empty(0), np.empty(0, bool))] * len(windows)

    def answer(batch: Sequence[int]) -> list[KL]:
        with calling(models[0], "divergence()"):
            return list(first.divergence(models[1], [windows[i] for i in batch]))

    drawn = batches([len(w.ids) - 1 for w in windows], size, any(model.equal_lengths for model in models))
    reporter = None if progress is None else Reporter[KL](progress, windows, lambda result: result[0])
    for i, result in answer_batches(drawn, answer, reporter):
        found[i] = result
    contents = contents_of([row_of(plan) for plan in plans])
    number = {name: n for n, name in enumerate(dict.fromkeys(name for name, _ in contents))}
    rows = np.repeat(np.arange(len(plans)), [sum(len(w.ids) - w.start for w in plan.windows) for plan in plans])
    at = np.concatenate([np.arange(w.begin + w.start, w.begin + len(w.ids)) for w in windows])
    owners = np.asarray([number[name] for name, _ in contents])[rows]
    every = np.concatenate([kl for kl, _ in found])
    if not np.isfinite(every).all():
        raise EvaluationError(
            f"the KL divergence is infinite: {models[1].spec or models[1].name} gives some token no probability at all "
            f"where {models[0].spec or models[0].name} gives it some"
        )
    same_top = np.concatenate([same for _, same in found])
    return summarise(every, same_top, owners, (rows, at), originals_of(contents))


def check_models(models: tuple[Model, Model]) -> Diverges:
    """The first model; UsageError unless both give distributions over one vocabulary."""
    p, q = models
    if not isinstance(p, Diverges) or not isinstance(q, Diverges):
        less = q if isinstance(p, Diverges) else p
        raise UsageError(f"model {less.name} gives no distributions, which the KL divergence needs")
    for field in ("vocab_size", "prefix_id"):
        if getattr(p, field) != getattr(q, field):
            raise UsageError(
                f"the KL divergence needs one vocabulary: {field} is {getattr(p, field)} for {p.spec or p.name} "
                f"against {getattr(q, field)} for {q.spec or q.name}"
            )
    return p


def _check_ids(models: tuple[Model, Model], plans: Sequence[Plan]) -> None:
    for plan in plans:
        text = plan.document.context + plan.document.text[plan.piece.start : plan.piece.stop]
        if list(encode(models[1], text, f"document {plan.document.id!r}").ids) != list(plan.encoding.ids):
            raise UsageError(
                f"the KL divergence needs one tokenizer, and those of {models[0].spec or models[0].name} and "
                f"{models[1].spec or models[1].name} read document {plan.document.id!r} differently"
            )
