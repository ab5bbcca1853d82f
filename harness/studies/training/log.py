"""The log of a training run: typed, versioned, written atomically as the run goes; all that a plot of it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from evalgpt.core import UsageError
from evalgpt.report.decoding import decode_as
from evalgpt.report.document import ModelInfo, ProtocolInfo, Run, TaskInfo, to_json
from evalgpt.report.files import BOM, TRAINING_LOG, write_bytes

__all__ = [
    "BEST",
    "LAST",
    "LOG",
    "Evaluated",
    "Memorised",
    "Sampled",
    "Settings",
    "Span",
    "State",
    "Training",
    "Updates",
    "read_training",
    "write_training",
]


SCHEMA: Final = "evalgpt.training/1"

LOG, BEST, LAST = TRAINING_LOG, "best.safetensors", "last.safetensors"
"""The files of a run, in its folder."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a training run is asked to do. The defaults are those of the from-scratch course (LLMs-from-scratch, ch05).

    ``epochs`` passes over the training windows, or ``steps`` updates where that is not None; an update is made of
    ``accumulate`` batches of ``batch`` windows. The learning rate rises over ``warmup`` updates to ``learning_rate``
    and stays there, or falls along half a cosine to ``min_learning_rate`` at the last update. ``clip`` is the largest
    norm of the gradient. ``seed`` None goes on from the draws that made the weights. ``eval_iter`` also takes the
    course's partial losses, over that many batches. ``save_every`` None saves after each epoch. ``sample`` is what the
    text generated after each epoch begins with, None for none. ``context`` and ``stride`` None are the protocol's.
    """

    model: str
    task: str
    device: str | None = None
    dtype: str | None = None
    context: int | None = None
    stride: int | None = None
    epochs: int = 10
    steps: int | None = None
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 4e-4
    warmup: int = 0
    decay: Literal["none", "cosine"] = "none"
    min_learning_rate: float = 0.0
    weight_decay: float = 0.1
    clip: float | None = None
    seed: int | None = None
    eval_every: int = 5
    eval_iter: int | None = None
    save_every: int | None = None
    sample: str | None = "Every effort moves you"
    sample_tokens: int = 50
    memorised: float = 0.9


class Updates(msgspec.Struct, kw_only=True):
    """One entry per update, in order: the mean loss of its batches before it (nats per token, with dropout), the norm
    of the gradient before clipping, the learning rate, the epoch (from 1), and seconds of wall-clock time."""

    loss: list[float] = []
    gradient_norm: list[float] = []
    learning_rate: list[float] = []
    epoch: list[int] = []
    seconds: list[float] = []


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """What the harness found after ``updates`` updates, 0 being before the first: token-weighted losses (nats) and
    bits per byte of both parts, by protocol ``book``; ``evalgpt run`` gives the same of weights of this
    ``fingerprint``. ``course_*`` are the course's partial losses, None without ``eval_iter``."""

    updates: int
    epoch: int
    tokens_seen: int
    train_loss: float
    validation_loss: float
    train_bits_per_byte: float | None
    validation_bits_per_byte: float | None
    course_train_loss: float | None = None
    course_validation_loss: float | None = None
    fingerprint: str
    seconds: float


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """The text that the model writes by itself after an epoch, always its likeliest token."""

    updates: int
    epoch: int
    text: str


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of one part of a text: ``tokens`` from number ``first`` on; ``loss`` is their mean, in nats."""

    document: str
    split: str
    first: int
    tokens: int
    loss: float
    text: str


class Memorised(msgspec.Struct, frozen=True, kw_only=True):
    """What the model predicts almost surely after ``updates`` updates: the ``share`` of each part's scored tokens that
    had a probability above ``probability``, and the longest ``spans`` of such tokens."""

    updates: int
    probability: float
    share: dict[str, float]
    spans: dict[str, list[Span]]


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The lowest validation loss (nats) so far."""

    updates: int
    validation_loss: float


class State(msgspec.Struct, kw_only=True):
    """Where a run stands: updates made, the epoch (from 1), the order of its windows, and how many of them are done."""

    updates: int = 0
    epoch: int = 0
    order: list[int] = []
    position: int = 0
    tokens_seen: int = 0
    best: Best | None = None


class Training(msgspec.Struct, kw_only=True):
    """One training run. ``windows`` is how many windows each part of the texts has for training and validation;
    ``total_updates`` how many updates make the run whole."""

    schema: Literal["evalgpt.training/1"] = SCHEMA
    run: Run
    settings: Settings
    model: ModelInfo
    task: TaskInfo
    protocol: ProtocolInfo
    windows: dict[str, int]
    total_updates: int
    updates: Updates
    evaluations: list[Evaluated] = []
    samples: list[Sampled] = []
    best: Best | None = None
    memorised: Memorised | None = None

    def cut(self, updates: int) -> None:
        """Forget what came after ``updates`` updates: the checkpoint that the run goes on from does not know it."""
        for name in Updates.__struct_fields__:
            del getattr(self.updates, name)[updates:]
        self.evaluations = [e for e in self.evaluations if e.updates <= updates]
        self.samples = [s for s in self.samples if s.updates <= updates]
        self.memorised = None


def write_training(log: Training, folder: Path) -> None:
    """Write ``log`` into the run's folder, whole or not at all.

    Raises:
        EvaluationError: the file cannot be written.
    """
    write_bytes(to_json(log), str(folder / LOG))


def read_training(folder: Path) -> Training:
    """The log in the run's folder.

    Raises:
        UsageError: there is none, or it is none that this evalgpt reads.
    """
    path = folder / LOG
    try:
        return decode_as(path.read_bytes().removeprefix(BOM), Training)
    except OSError as error:
        raise UsageError(f"{folder} holds no training run: cannot read {path} ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{path} is not the log of a training run: {error}") from None
