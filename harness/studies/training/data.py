"""What is trained on, and the course of the learning rate: all of a training run that needs no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evalgpt.core import EvaluationError, Model, Task, Window
from evalgpt.core.protocol import Protocol
from evalgpt.core.validation import documents_of
from evalgpt.protocols.book import book
from evalgpt.scoring.engine import plan_windows
from evalgpt.studies.training.log import Settings

__all__ = ["Data", "learning_rate", "read_data", "updates_in"]


@dataclass(frozen=True, slots=True)
class Data:
    """Windows of L + 1 ids: what is trained on, and what the validation loss is of."""

    train: list[Window]
    validation: list[Window]


def read_data(model: Model, task: Task, protocol: Protocol, batch: int) -> Data:
    """The windows of the course's loader (LLMs-from-scratch ch02, create_dataloader_v1) over all texts of ``task``.

    ``protocol`` is ``book``, bound to ``model``.

    Raises:
        EvaluationError: there is not one batch to train on, nor two windows, or nothing to validate with.
    """
    plans = plan_windows(model, documents_of(task), protocol, enough=False)
    context, stride = (int(str(protocol.settings()[key])) for key in ("context", "stride"))
    parts: dict[str, list[Window]] = {"train": [], "validation": []}
    for plan in plans:
        parts[plan.piece.split] += book(plan.encoding.ids, context, stride, drop_odd=False)
    for split, needed in (("train", max(batch, 2)), ("validation", 1)):  # book evaluates an even number of windows
        if len(parts[split]) < needed:
            tokens = sum(len(plan.encoding.ids) for plan in plans if plan.piece.split == split)
            raise EvaluationError(
                f"the text is too short to train on: its {split} part of {tokens} tokens makes {len(parts[split])} of "
                f"the {needed} windows of {context} tokens that it takes; give a longer text or a smaller --context"
            )
    return Data(parts["train"], parts["validation"])


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
