"""What a protocol must be: which tokens are scored, and from which context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

from evalgpt.core.data import Encoding, Row, Window
from evalgpt.core.errors import UsageError
from evalgpt.core.model import Model

__all__ = ["DEFAULT_PROTOCOL", "Piece", "Protocol", "Tokens"]


DEFAULT_PROTOCOL = "exact"
"""The spec of the protocol that is used where neither the caller nor the task names one. It scores every token, of any
text, with any model; so messages name it as the way out."""


@dataclass(frozen=True)
class Protocol(ABC):
    """A protocol with its parameters. ``context`` and ``stride`` left None are filled in by :meth:`bind`.

    Class attributes:
        name: what it is registered as; reports name it so.
        source: the tool whose numbers it reproduces.
        smallest_context: the fewest tokens of context that make sense.
        takes_context_documents: whether it scores a document behind a context of its own, as in sentence pairs.
        headline: the number that a user of that tool would quote: a key of :meth:`peer`, or ``loss``, the token mean.
        overwrites_first: whether BOS takes the place of each window's first token if the model's tokenizer adds BOS.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    smallest_context: ClassVar[int] = 1
    takes_context_documents: ClassVar[bool] = False
    headline: ClassVar[str] = "loss"
    overwrites_first: ClassVar[bool] = False
    context: int | None = None

    @abstractmethod
    def default_context(self, model: Model) -> int:
        """The context used where none was given."""

    def bind(self, model: Model) -> Self:
        """This protocol with every parameter decided for ``model``.

        Raises:
            UsageError: the context or the stride is out of range, or the model lacks the token it needs.
        """
        context = int(self.default_context(model) if self.context is None else self.context)
        if not self.smallest_context <= context <= model.context_length:
            raise UsageError(
                f"context {context} is out of range: protocol {self.name} with model {model.name} "
                f"accepts {self.smallest_context} to {model.context_length} tokens"
            )
        return replace(self, context=context)

    def settings(self) -> dict[str, object]:
        """Every parameter, as the report states it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def pieces(self, text: str) -> list[Piece]:
        """How the text is cut before tokenizing; whole by default."""
        return [Piece("", 0, len(text))]

    @abstractmethod
    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        """The windows over one piece; call :meth:`bind` first."""

    def stream(self, ids: Iterable[int], prefix_id: int | None) -> Iterator[Window] | None:
        """The windows over a text without a context whose ids come one by one, each token scored once, in order; None
        where the protocol needs the whole text."""
        return None

    def training_windows(self, tokens: Tokens, split: str) -> Iterator[Window] | None:
        """What of one piece a model is trained on, each window ``context + 1`` ids of which all but the first are
        predicted; None where this protocol does not say. Training needs pieces called ``train`` and ``validation``."""
        return None

    def context_tokens(self, model: Model, context: str, encoding: Encoding) -> int:
        """How many of the first tokens of ``encoding``, of a context and its continuation, are the context's.

        Those that end within it; a token that reaches into the continuation is scored.
        """
        if encoding.byte_spans is None:
            from evalgpt.core.answers import encode  # numpy: not needed to list protocols

            return min(len(encode(model, context, "a document's context").ids), len(encoding.ids))
        edge = len(context.encode())
        return sum(1 for _, end in encoding.byte_spans if end <= edge)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """The peer's own headline numbers, by name; empty where the token mean is the headline.

        ``explain-difference`` reads their units off their names: with ``perplexity`` in the name it is a perplexity, a
        name that ends in ``_loss`` is in nats per token, ``bits_per_byte`` in bits. It leaves out other names, and
        those with ``error``. ``word_perplexity``, ``byte_perplexity`` and ``bits_per_byte`` divide by what is the
        text's own, whatever the tokenizer.
        """
        return {}

    def notes(self, rows: Sequence[Row]) -> list[str]:
        """What the reader of the numbers must know of how this protocol treated ``rows``."""
        return []

    @property
    def _context(self) -> int:
        if self.context is None:
            raise RuntimeError(f"protocol {self.name} was not bound to a model")
        return self.context


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a protocol sees of a text: its ids (the document's context first) and the model's special tokens."""

    ids: Sequence[int]
    context_tokens: int = 0
    has_context: bool = False
    prefix_id: int | None = None
    adds_bos: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that is tokenized and scored by itself: characters ``start .. stop - 1``."""

    split: str
    start: int
    stop: int
