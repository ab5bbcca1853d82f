"""What is trained on, and the course of the learning rate: all of a training run that needs no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evalgpt.core import EvaluationError, Model, Task, UsageError, Window
from evalgpt.core.guard import calling
from evalgpt.core.protocol import Protocol, Tokens
from evalgpt.core.validation import documents_of
from evalgpt.scoring.engine import Plan, plan_windows
from evalgpt.studies.training.log import Settings

__all__ = ["Data", "learning_rate", "read_data", "updates_in"]


@dataclass(frozen=True, slots=True)
class Data:
    """Windows of L + 1 ids: what is trained on, and what the validation loss is of."""

    train: list[Window]
    validation: list[Window]


def read_data(model: Model, task: Task, protocol: Protocol, batch: int) -> Data:
    """The windows that ``protocol``, bound to ``model``, says a model is trained on, over all texts of ``task``.

    Raises:
        UsageError: the protocol says nothing of training, or makes other pieces than train and validation.
        EvaluationError: there is not one batch to train on, nor two windows, or nothing to validate with.
    """
    plans = plan_windows(model, documents_of(task), protocol, enough=False)
    parts: dict[str, list[Window]] = {"train": [], "validation": []}
    for plan in plans:
        windows = _windows(model, protocol, plan)
        if windows is None or plan.piece.split not in parts:
            raise UsageError(
                f"protocol {protocol.name} does not say what a model is trained on and what validated with"
            )
        parts[plan.piece.split] += windows
    for split, needed in (("train", max(batch, 2)), ("validation", 1)):  # an evaluation may leave out an odd last one
        if len(parts[split]) < needed:
            tokens = sum(len(plan.encoding.ids) for plan in plans if plan.piece.split == split)
            raise EvaluationError(
                f"the text is too short to train on: its {split} part of {tokens} tokens makes {len(parts[split])} of "
                f"the {needed} windows of {protocol.context} tokens that it takes; give a longer text or a smaller "
                f"--context"
            )
    return Data(parts["train"], parts["validation"])


def _windows(model: Model, protocol: Protocol, plan: Plan) -> list[Window] | None:
    given = bool(plan.document.context)
    tokens = Tokens(plan.encoding.ids, plan.context_tokens, given, model.prefix_id, model.adds_bos)
    with calling(protocol, "training_windows()", f"document {plan.document.id!r}"):
        windows = protocol.training_windows(tokens, plan.piece.split)
        return None if windows is None else list(windows)


def learning_rate(settings: Settings, update: int, total: int) -> float:
    """The learning rate of update number ``update``, from 0, of ``total``."""
    if update < settings.warmup:
        return settings.learning_rate * (update + 1) / settings.warmup
    if settings.decay == "none":
        return settings.learning_rate
    done = (update - settings.warmup) / max(total - 1 - settings.warmup, 1)
    low = settings.min_learning_rate
    return low + (settings.learning_rate - low) * (1 + math.cos(math.pi * done)) / 2


def updates_in(settings: Settings, data: Data) -> tuple[int, int]:
    """How many updates one epoch has, and the whole run."""
    batches = len(data.train) // settings.batch
    epoch = -(-batches // settings.accumulate)
    return epoch, settings.epochs * epoch if settings.steps is None else settings.steps
