"""The types that every part of evalgpt speaks. Standard library only; numpy appears in annotations alone.

One way through::

    text -> Document -> Encoding -> Window -> Model.score -> Row -> metrics -> Report

Losses are negative log-likelihoods (NLL) in nats wherever no other unit is named.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Detail",
    "Document",
    "Encoding",
    "EvalgptError",
    "EvaluationError",
    "Model",
    "Row",
    "Scored",
    "Task",
    "TokenScores",
    "UsageError",
    "Window",
    "alike",
]


class EvalgptError(Exception):
    """A failure that is the user's to read: one line that says what was wrong and what is accepted."""

    exit_code: ClassVar[int] = 1


class UsageError(EvalgptError):
    """The request itself cannot be met: an unknown name or key, a limit exceeded, a path that is not there."""

    exit_code: ClassVar[int] = 2


class EvaluationError(EvalgptError):
    """The request was understood, but this text or this model cannot be evaluated."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text to score.

    ``context`` is fed to the model before ``text`` and never scored. ``group`` and ``label`` are for tasks that
    compare documents with each other (a minimal pair shares its group; the label says which half it is). A text too
    long to hold is given in ``parts``, called for each reading; ``text`` is then empty.
    """

    id: str
    text: str
    context: str = ""
    group: str = ""
    label: str = ""
    parts: Callable[[], Iterable[str]] | None = None

    def whole(self) -> Document:
        """This document with its text in one piece."""
        return self if self.parts is None else replace(self, text="".join(self.parts()), parts=None)


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids, and where each token lies in the text's UTF-8 bytes as (start, end).

    ``byte_spans`` is None where a tokenizer cannot tell.
    """

    ids: Sequence[int]
    byte_spans: Sequence[tuple[int, int]] | None


@dataclass(frozen=True, slots=True)
class Window:
    """What the model is asked once: feed ``ids[:-1]``, score ``ids[start:]``.

    ``begin`` is the position in the document of ``ids[0]``; -1 when that is a prefix token (BOS or EOS) standing
    before the document's first token. Every protocol is a pure generator of windows.
    """

    ids: Sequence[int]
    start: int
    begin: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.start < len(self.ids):
            raise ValueError(f"a window of {len(self.ids)} ids cannot score from position {self.start}")


def alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids ``a`` and ``b`` begin with alike."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass(frozen=True, slots=True)
class Detail:
    """What to compute per scored token besides its NLL."""

    rank: bool = False
    entropy: bool = False
    top: int = 0


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The scores of one window's n scored tokens.

    ``nll`` float32 [n], nats. On request: ``rank`` int64 [n], the number of tokens the model preferred to the true
    one (0 = its first choice); ``entropy`` float32 [n], nats, of the predicted distribution; ``top_ids`` int64
    [n, k] and ``top_logprobs`` float32 [n, k] (nats), the k likeliest tokens, likeliest first.
    """

    nll: NDArray[np.float32]
    rank: NDArray[np.int64] | None = None
    entropy: NDArray[np.float32] | None = None
    top_ids: NDArray[np.int64] | None = None
    top_logprobs: NDArray[np.float32] | None = None


class Scored(NamedTuple):
    """Which tokens of a row one window scored: ``first .. first + size - 1``.

    The first of them was predicted from ``context`` fed tokens, each later one from one more.
    """

    first: int
    size: int
    context: int


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of text, scored. A document is one piece unless its protocol splits it.

    ``offset`` is the byte at which the piece begins in ``document.text``. ``ids`` are the tokens of the document's
    context (the first ``context_tokens`` of them) and of the piece; ``byte_spans`` count from the beginning of
    the context, which is ``context_bytes`` long, so that the piece's own bytes follow it. ``nll`` is flat, in
    window order: the NLL of window 0's scored tokens, then window 1's, ... (float32, nats), ``windows`` says
    where each lies. ``detail`` holds more of the same scores, in the same order, where that was asked for.
    """

    document: Document
    split: str
    text: str
    offset: int
    ids: Sequence[int]
    byte_spans: Sequence[tuple[int, int]] | None
    context_tokens: int
    windows: Sequence[Scored]
    nll: NDArray[np.float32]
    detail: TokenScores | None = None


class Model(ABC):
    """A language model: the only thing an adapter must be.

    An adapter sets the attributes and answers :meth:`encode`, :meth:`decode` and :meth:`score`. Windowing,
    batching, sums and reports are not its business. What only some models can do, such as giving logits, is in
    :mod:`evalgpt.capabilities`.

    Attributes:
        name: what the model is called in reports.
        fingerprint: changes whenever a weight (or anything else that changes a score) changes.
        context_length: the largest number of tokens that can be fed at once.
        vocab_size: ids are 0 .. vocab_size - 1.
        prefix_id: the token that stands before a text (BOS, else EOS), or None.
        adds_bos: whether the tokenizer's own habit is to put ``prefix_id`` before every text.
        eos_ids: the tokens that end a text that the model writes; none where it has no such token.
        unused_ids: ids below ``vocab_size`` that are no token of the tokenizer, as rows that pad an embedding. No text
            has them, ``generate`` does not pick them, and where a model proposes one it is shown as ``<id 50300>``.
        trained: whether the weights were loaded (True) or drawn at random (False); None where that is not known.
        cache_id: what a score depends on besides fingerprint, tokenizer, dtype and kind of device: the adapter's
            name and its switches. With it scores are kept between runs; None keeps none, as is right while code is
            being changed.
        equal_lengths: whether the windows of one batch must feed equally many tokens, because a loss would otherwise
            depend on the longest of them (positions encoded by the length of the text).
        warnings: what a reader of this model's numbers must be told, a sentence each; reports show them with a ``!``.
        config: what else is needed to build the same model again, for the report.
        tokenizer: the tokenizer's identity, for the report; at least a ``name``.
        device, dtype: where and in what precision it computes.
        runtime: facts about that device that a reader of timings wants (threads, name).
        spec: what the model was built from, set by the plugin manager.
    """

    name: str
    fingerprint: str
    context_length: int
    vocab_size: int
    prefix_id: int | None = None
    adds_bos: bool = False
    eos_ids: Sequence[int] = ()
    unused_ids: Sequence[int] = ()
    trained: bool | None = None
    cache_id: str | None = None
    equal_lengths: bool = False
    warnings: Sequence[str] = ()
    config: Mapping[str, object] = {}
    tokenizer: Mapping[str, object] = {"name": "unknown"}
    device: str = "unknown"
    dtype: str = "unknown"
    runtime: Mapping[str, object] = {}
    spec: str = ""

    @abstractmethod
    def encode(self, text: str) -> Encoding:
        """Tokenize ``text`` without adding special tokens; text that looks like a special token is text."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD."""

    @abstractmethod
    def score(self, windows: Sequence[Window], detail: Detail | None = None) -> Sequence[TokenScores]:
        """Score one batch: for each window, feed ``ids[:-1]`` and return the scores of ``ids[start:]``.

        A window's scores must not depend on what else is in the batch, nor on earlier calls.
        """


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
    default_protocol: str = "exact"
    spec: str = ""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield the documents, in the same order each time.

        Raises:
            UsageError: a path is not there. EvaluationError: a text cannot be used (empty, not UTF-8).
        """

    def metrics(self, rows: Iterable[Row]) -> Mapping[str, float]:
        """Numbers of this task's own, besides loss, perplexity and bits per byte. None by default."""
        return {}
