"""What a model must be, and what only some models can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from evalgpt.core.data import Detail, Encoding, TokenScores, Window

__all__ = ["Model"]


class Model(ABC):
    """A language model: the only thing an adapter must be.

    An adapter sets the attributes and answers :meth:`encode`, :meth:`decode` and :meth:`score`. Windowing,
    batching, sums and reports are not its business. What only some models can do, such as giving logits, is in
    :mod:`evalgpt.core.capabilities`.

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
