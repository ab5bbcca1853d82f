"""Protocols: which tokens are scored, and from which context.

A protocol's windows are pure functions in :mod:`evalgpt.windows`; here are its parameters, their defaults and limits,
and what it does to a text before tokenizing. Peers' own averages (:mod:`evalgpt.peers`) stand beside the
token-weighted mean that is every report's headline loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from evalgpt import windows
from evalgpt.core import Encoding, EvaluationError, Model, Row, UsageError, Window
from evalgpt.hooks import Register, hookimpl
from evalgpt.windows import Piece, Tokens

__all__ = ["Piece", "Protocol", "Tokens"]


@dataclass(frozen=True)
class Protocol(ABC):
    """A protocol with its parameters. ``context`` and ``stride`` left None are filled in by :meth:`bind`."""

    name: ClassVar[str]
    source: ClassVar[str]
    smallest_context: ClassVar[int] = 1
    takes_context_documents: ClassVar[bool] = False
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

    def context_tokens(self, model: Model, context: str, encoding: Encoding) -> int:
        """How many of the first tokens of ``encoding``, of a context and its continuation, are the context's.

        Those that end within it; a token that reaches into the continuation is scored.
        """
        if encoding.byte_spans is None:
            return min(len(_encode()(model, context, "a document's context").ids), len(encoding.ids))
        edge = len(context.encode())
        return sum(1 for _, end in encoding.byte_spans if end <= edge)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """The peer's own headline numbers, by name; empty where the token mean is the headline."""
        return {}

    def notes(self, rows: Sequence[Row]) -> list[str]:
        """What the reader of the numbers must know of how this protocol treated ``rows``."""
        return []

    @property
    def _context(self) -> int:
        if self.context is None:
            raise RuntimeError(f"protocol {self.name} was not bound to a model")
        return self.context


def _peers() -> Any:
    from evalgpt import peers  # numpy: not needed to list protocols

    return peers


def _encode() -> Any:
    from evalgpt.answers import encode  # numpy: not needed to list protocols

    return encode


@dataclass(frozen=True)
class _Strided(Protocol):
    stride: int | None = None

    def bind(self, model: Model) -> Self:
        bound = super().bind(model)
        stride = bound.default_stride() if bound.stride is None else bound.stride
        if not 1 <= stride <= bound._context:
            raise UsageError(
                f"stride {stride} is out of range: protocol {self.name} with context {bound.context} "
                f"accepts 1 to {bound.context}"
            )
        return replace(bound, stride=stride)

    def default_stride(self) -> int:
        return max(self._context // 2, 1)

    @property
    def _stride(self) -> int:
        if self.stride is None:
            raise RuntimeError(f"protocol {self.name} was not bound to a model")
        return self.stride


@dataclass(frozen=True)
class Exact(_Strided):
    name = "exact"
    source = "evalgpt"
    takes_context_documents = True
    prefix: str = "auto"

    def default_context(self, model: Model) -> int:
        return model.context_length

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        for window in self.stream(tokens.ids, tokens.prefix_id):
            start = max(window.start, tokens.context_tokens - window.begin)
            if start < len(window.ids):
                yield replace(window, start=start)

    def stream(self, ids: Iterable[int], prefix_id: int | None) -> Iterator[Window]:
        return windows.exact(ids, self._context, self._stride, prefix_id if self.prefix == "auto" else None)


@dataclass(frozen=True)
class LmEval(Protocol):
    name = "lm-eval"
    source = "lm-evaluation-harness"
    takes_context_documents = True

    def default_context(self, model: Model) -> int:
        return model.context_length

    def bind(self, model: Model) -> Self:
        if model.prefix_id is None:
            raise UsageError(
                f"protocol lm-eval begins every text with BOS or EOS and model {model.name} has neither; "
                f"use protocol exact"
            )
        return super().bind(model)

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        if tokens.prefix_id is None:
            raise RuntimeError("protocol lm-eval needs a prefix token")
        first = tokens.context_tokens
        if not tokens.has_context or first == 0:
            yield from windows.lm_eval(tokens.ids, self._context, tokens.prefix_id)
        elif first < len(tokens.ids):
            yield self._continuation(tokens.ids, first)

    def context_tokens(self, model: Model, context: str, encoding: Encoding) -> int:
        """As many as the context alone is encoded to, its trailing white space left to the continuation.

        Source: ``_encode_pair`` in lm_eval/api/model.py.
        """
        return min(len(_encode()(model, context.rstrip(), "a document's context").ids), len(encoding.ids))

    def _continuation(self, ids: Sequence[int], first: int) -> Window:
        """lm-eval's ``loglikelihood``: no prefix, the context cut on the left, the continuation whole."""
        begin = max(len(ids) - self._context - 1, 0)
        if begin >= first:
            raise EvaluationError(
                f"a continuation of {len(ids) - first} tokens does not fit behind its context in {self.context} tokens"
            )
        return Window(ids[begin:], first - begin, begin)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = _peers().lm_eval(rows)
        return numbers


@dataclass(frozen=True)
class HfStrided(_Strided):
    name = "hf-strided"
    source = "transformers documentation"
    smallest_context = 2

    def default_context(self, model: Model) -> int:
        return model.context_length

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        yield from windows.hf_strided(tokens.ids, self._context, self._stride)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = _peers().hf_strided(rows, self._context, self._stride)
        return numbers


@dataclass(frozen=True)
class LlamaCpp(Protocol):
    name = "llama.cpp"
    source = "llama.cpp"
    smallest_context = 3

    def default_context(self, model: Model) -> int:
        return min(512, model.context_length)

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        if not tokens.adds_bos or tokens.prefix_id is None:
            yield from windows.llama_cpp(tokens.ids, self._context, None)
            return
        # llama.cpp tokenizes with BOS in front, so its chunks count that token as the text's first.
        for window in windows.llama_cpp([tokens.prefix_id, *tokens.ids], self._context, tokens.prefix_id):
            yield replace(window, begin=window.begin - 1)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = _peers().llama_cpp(rows)
        return numbers


@dataclass(frozen=True)
class Book(_Strided):
    name = "book"
    source = "LLMs-from-scratch"

    def default_context(self, model: Model) -> int:
        return min(256, model.context_length)

    def default_stride(self) -> int:
        return self._context

    def pieces(self, text: str) -> list[Piece]:
        cut = int(0.9 * len(text))
        return [Piece("train", 0, cut), Piece("validation", cut, len(text))]

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        yield from windows.book(tokens.ids, self._context, self._stride, drop_odd=split == "train")

    def notes(self, rows: Sequence[Row]) -> list[str]:
        odd = [r for r in rows if r.split == "train" and len(range(0, len(r.ids) - self._context, self._stride)) % 2]
        if not odd:
            return []
        return [
            f"train has an odd number of windows in {len(odd)} text{'s' * (len(odd) > 1)}; the last in text order is "
            f"left out (the course shuffles and so leaves out a random one)"
        ]

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = _peers().book(rows)
        return numbers


def make_exact(
    argument: str | None, *, context: int | None = None, stride: int | None = None, prefix: str = "auto"
) -> Protocol:
    """Every token scored exactly once, after BOS or EOS where the model has one (the default).

    Windows: s = [prefix, t0, t1, ...] with prefix = BOS, else EOS, if the model has one; window k feeds
    s[kS .. kS+L-1]. L is the model's context length and S half of it, unless given.
    Scored: in each window only the targets that no earlier one scored, so every token once, each after the first
    window with at least L-S tokens of context. Without a prefix (none, or prefix=none) t0 is not scored.
    Headline: token mean.
    """
    _no_argument("exact", argument)
    if prefix not in ("auto", "none"):
        raise UsageError(f"protocol 'exact': prefix must be auto or none, not {prefix!r}")
    return Exact(context, stride, prefix)


def make_lm_eval(argument: str | None, *, context: int | None = None) -> Protocol:
    """lm-evaluation-harness's rolling windows; word and byte perplexity and bits per byte as it counts them.

    Windows: the first feeds [prefix, t0 .. t(L-2)]; full ones carry one token of context; the last partial one of
    r tokens gets L-r+1 tokens of context, so that its input is always L. A document with a context is scored as its
    loglikelihood requests are: no prefix, cut on the left to L. No BOS is scored or fed before a context, as with its
    add_bos_token=False; by default it does both where a tokenizer adds BOS by itself.
    Scored: every token once. L is the model's context length unless given; its API back ends use L-1.
    Headline: exp(total NLL / words), words split on white space, exp(total NLL / bytes), and bits per byte.
    """
    _no_argument("lm-eval", argument)
    return LmEval(context)


def make_hf_strided(argument: str | None, *, context: int | None = None, stride: int | None = None) -> Protocol:
    """The transformers documentation's strided windows, with its three published averagings.

    Windows: tokens b .. b+L-1 for b = 0, S, 2S, ..., without BOS. L is the model's context length and S half of it,
    unless given.
    Scored: each window's tokens that no earlier one held; never t0, and with S = L never a window's first.
    Headline: exp of window means weighted by trg_len (v1), by one (v2), by trg_len - 1 (v3).
    """
    _no_argument("hf-strided", argument)
    return HfStrided(context, stride)


def make_llama_cpp(argument: str | None, *, context: int | None = None) -> Protocol:
    """llama.cpp's chunks (512 tokens), the second half of each scored, with its standard error.

    Windows: the floor(N / L) whole chunks, at least two; BOS overwrites each chunk's first token where the
    vocabulary adds BOS. L is 512, or the model's context length if that is less, unless given.
    Scored: in each chunk the tokens that positions L/2 .. L-2 predict, L-1-L/2 of them.
    Headline: exp(mean) and PPL * sqrt(variance / (count - 1)).
    """
    _no_argument("llama.cpp", argument)
    return LlamaCpp(context)


def make_book(argument: str | None, *, context: int | None = None, stride: int | None = None) -> Protocol:
    """The from-scratch course's loader: 90 % train, 10 % validation, windows of 256, mean of batch means.

    Windows: the text is cut by characters at int(0.9 * length) into train and validation, each tokenized by itself;
    windows start at range(0, N-L, S). L is 256, or the model's context length if that is less, and S = L, unless
    given. An odd last window of train is left out, as drop_last does.
    Scored: t(i+1) .. t(i+L) in the window at i; t0 and the tail of each part never.
    Headline: per part the mean of the means of batches of two windows.
    """
    _no_argument("book", argument)
    return Book(context, stride)


def _no_argument(name: str, argument: str | None) -> None:
    if argument is not None:
        raise UsageError(f"protocol {name!r} takes no argument, only keys; {argument!r} is none")


@hookimpl
def register_protocols(register: Register) -> None:
    register("exact", make_exact)
    register("lm-eval", make_lm_eval)
    register("hf-strided", make_hf_strided)
    register("llama.cpp", make_llama_cpp)
    register("book", make_book)
