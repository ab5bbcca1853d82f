"""The data that passes through an evaluation: documents, windows, scores and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Detail", "Document", "Encoding", "Row", "Scored", "TokenScores", "Window", "common_prefix_length"]


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


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
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
