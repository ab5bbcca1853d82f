"""What a task must be: a source of documents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from evalgpt.core.data import Document, Row
from evalgpt.core.protocol import DEFAULT_PROTOCOL

__all__ = ["Task"]


class Task(ABC):
    """Texts to measure on. A task yields text, never tokens: the tokenizer belongs to the model.

    ``default_protocol`` is a protocol spec such as ``exact`` or ``exact:prefix=none``; ``spec`` is what the task was
    built from, set by the plugin manager. ``long`` is the bytes of texts that are too long to hold, 0 for others: they
    are scored part by part where the protocol can, without a context or metrics of their own. ``notes`` say what a
    reader of the numbers must know of the texts, such as what was left out; they are read after the documents and go
    into the report.
    """

    name: str
    long: int = 0
    notes: Sequence[str] = ()
    default_protocol: str = DEFAULT_PROTOCOL
    spec: str = ""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield the documents, in the same order each time.

        Raises:
            UsageError: a path is not there. EvaluationError: a text cannot be used (empty, not UTF-8).
        """

    def metrics(self, rows: Iterable[Row]) -> Mapping[str, float]:
        """Numbers of this task's own, besides loss, perplexity and bits per byte. None by default.

        ``evalgpt export`` writes accuracies by the names that minimal pairs give them: ``pairs`` (how many) and
        ``accuracy``, and if there are any ``accuracy_per_byte`` and each one's interval, ``accuracy_low`` and
        ``accuracy_high``; of a part of the task with the part's name and a point before them.
        """
        return {}
