"""What only some models can do: small abstract classes beside ``Model``, asked with isinstance.

As with :mod:`collections.abc`, a model has a capability by having its methods; inheriting is not needed. None in the
place of a method says that the model cannot, whatever its base class can.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalgpt.core.data import Window

__all__ = [
    "CutsText",
    "Diverges",
    "GivesLogits",
    "Optimisation",
    "Reloads",
    "SharesPrefixes",
    "Trainable",
    "Trained",
    "Trainer",
]


class Capability(ABC):  # noqa: B024 - its subclasses have the methods
    """An abstract class that whatever has its methods is an instance of."""

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        for name in cls.__abstractmethods__:
            found = next((vars(base)[name] for base in other.__mro__ if name in vars(base)), None)
            if found is None:
                return False
        return bool(cls.__abstractmethods__) or NotImplemented


class GivesLogits(Capability):
    """Answers with logits: what ``generate`` needs, and the first step of ``explain``."""

    @abstractmethod
    def next_logits(self, ids: Sequence[int], count: int = 1) -> NDArray[np.float32]:
        """Logits of the token that follows each of the last ``count`` of ``ids``: float32 [count, vocab_size].

        ``ids`` are at least one token, at most ``context_length``.
        """


class CutsText(Capability):
    """Knows where a text may be cut, so that long texts are tokenized part by part."""

    @abstractmethod
    def cut(self, text: str) -> int:
        """The last place at which ``text`` may be cut, whatever follows it: the ids of both parts are then those of the
        whole. 0 where there is none."""


class SharesPrefixes(Capability):
    """Computes once what the windows of a batch begin with alike."""

    @property
    @abstractmethod
    def shared_tokens(self) -> int:
        """The most tokens that a batch of windows with common beginnings may hold, each beginning counted once; 0
        where this model computes every window by itself."""


class Diverges(Capability):
    """Compares its predictions with another model's while both are at hand."""

    @abstractmethod
    def divergence(
        self, other: Any, windows: Sequence[Window]
    ) -> Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """KL(self || other), nats, of each scored token of each window, and whether both find the same token likeliest.

        Both models have one vocabulary.
        """


@dataclass(frozen=True, slots=True)
class Optimisation:
    """How a trainer changes weights: by AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), betas 0.9 and 0.999.

    ``clip`` is the largest norm that the gradient of all weights together may have, None for any. ``seed`` is that of
    shuffling and dropout; with None they go on from the random draws that made the weights, where these were drawn,
    as in a script that seeds once.
    """

    weight_decay: float = 0.1
    clip: float | None = None
    seed: int | None = None


class Trained(NamedTuple):
    """One update: the mean loss (nats per token) of its batches before it, and the norm of the gradient unclipped."""

    loss: float
    gradient_norm: float


class Trainable(Capability):
    """Can be trained."""

    @abstractmethod
    def trainer(self, how: Optimisation) -> Trainer:
        """What changes this model's weights."""


class Reloads(Capability):
    """Says how the model that its trainer saved is built again."""

    @abstractmethod
    def weights_spec(self, path: str) -> str:
        """The spec of a model with the weights of the file ``path``, which :meth:`Trainer.save` wrote."""


class Trainer(ABC):
    """A model under gradient descent. Outside of :meth:`step` the model is in eval mode, and its scores and its
    fingerprint are those of the weights as they are."""

    @abstractmethod
    def order(self, count: int, *, shuffle: bool = True) -> list[int]:
        """The numbers 0 .. count - 1 in the order of one pass over the data. Equal seeds give equal orders."""

    @abstractmethod
    def step(self, batches: Sequence[Sequence[Sequence[int]]], learning_rate: float) -> Trained:
        """One update from the mean gradient of ``batches``, each of rows of L + 1 ids: fed ``ids[:-1]``, ``ids[1:]``
        predicted. Where the loss or the gradient is not finite, no weight is changed."""

    @abstractmethod
    def save(self, path: str, facts: Mapping[str, str], *, resumable: bool) -> None:
        """Write the weights to ``path`` as safetensors, with ``facts``; and, ``resumable``, all that :meth:`restore`
        needs to go on to the same bits.

        Raises:
            OSError: the file cannot be written.
        """

    @abstractmethod
    def restore(self, path: str) -> Mapping[str, str]:
        """Go back to what :meth:`save` wrote; its ``facts``.

        Raises:
            EvaluationError: the file cannot be read, or is another model's.
        """
