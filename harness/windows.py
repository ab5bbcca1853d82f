"""The windows of each protocol, as pure functions of a text's tokens.

``ids`` are t0 .. t(N-1), ``context`` (L) is the number of tokens fed at once and ``stride`` (S) the distance between
windows; both are taken to be in range.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from evalgpt.core import EvaluationError, Window

__all__ = ["Piece", "Tokens", "book", "exact", "hf_strided", "llama_cpp", "lm_eval"]


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


def exact(ids: Iterable[int], context: int, stride: int, prefix: int | None) -> Iterator[Window]:
    """Every token once; after the first window each with at least ``context - stride`` tokens before it.

    ``ids`` are taken as they are needed, so they may be a stream.
    """
    stream = iter(ids if prefix is None else itertools.chain([prefix], ids))
    begin = 0 if prefix is None else -1
    fed = list(itertools.islice(stream, context + 1))
    scored = 1
    while scored < len(fed):
        yield Window(fed, scored, begin)
        if len(fed) <= context:
            return
        scored = len(fed) - stride
        fed = fed[stride:] + list(itertools.islice(stream, stride))
        begin += stride


def lm_eval(ids: Sequence[int], context: int, prefix: int) -> Iterator[Window]:
    """lm-evaluation-harness: get_rolling_token_windows with context_len 1, then make_disjoint_window.

    Source: lm_eval/utils.py and ``loglikelihood_rolling`` in lm_eval/models/huggingface.py.
    """
    first = min(context, len(ids))
    if first:
        yield Window([prefix, *ids[:first]], 1, -1)
    for begin in range(first, len(ids), context):
        end = min(begin + context, len(ids))
        fed_from = end - context - 1
        yield Window(ids[fed_from:end], begin - fed_from, fed_from)


def hf_strided(ids: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """The strided recipe of the transformers documentation, "Perplexity of fixed-length models".

    A window's first token is never predicted in that window; a window left with nothing to score is not a window.
    """
    previous = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        start = max(previous - begin, 1)
        if start < end - begin:
            yield Window(ids[begin:end], start, begin)
        previous = end
        if end == len(ids):
            return


def llama_cpp(ids: Sequence[int], context: int, bos: int | None) -> Iterator[Window]:
    """llama.cpp's perplexity tool: whole chunks, of which the second half is scored.

    ``bos``, where the vocabulary adds one, overwrites each chunk's first token. Source: tools/perplexity.

    Raises:
        EvaluationError: fewer than two chunks, which llama.cpp refuses.
    """
    if len(ids) < 2 * context:
        raise EvaluationError(
            f"protocol llama.cpp needs at least two chunks of {context} tokens and the text has {len(ids)}; "
            f"give a longer text or a smaller --context"
        )
    for begin in range(0, len(ids) // context * context, context):
        chunk = ids[begin : begin + context]
        yield Window(chunk if bos is None else [bos, *chunk[1:]], context // 2 + 1, begin)


def book(ids: Sequence[int], context: int, stride: int, drop_odd: bool) -> Iterator[Window]:
    """The from-scratch course's loader (LLMs-from-scratch ch02, GPTDatasetV1); batches are pairs of windows.

    ``drop_odd`` leaves out the last window of an odd number, as ``drop_last`` does to a batch of two. The course
    shuffles first and so drops a random one; here it is the last in text order.
    """
    begins = range(0, len(ids) - context, stride)
    for begin in begins[: len(begins) // 2 * 2] if drop_odd else begins:
        yield Window(ids[begin : begin + context + 1], 1, begin)
