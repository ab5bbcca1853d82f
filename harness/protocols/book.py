"""The protocol ``book``: the from-scratch course's loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evalgpt.core import Model, Row, Window
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.core.protocol import Piece, Protocol, Tokens
from evalgpt.protocols.base import Strided, averages_of_peers, no_argument

__all__ = ["book"]


@dataclass(frozen=True)
class Book(Strided):
    name = "book"
    source = "LLMs-from-scratch"
    headline = "validation_loss"

    def default_context(self, model: Model) -> int:
        return min(256, model.context_length)

    def default_stride(self) -> int:
        return self._context

    def pieces(self, text: str) -> list[Piece]:
        cut = int(0.9 * len(text))
        return [Piece("train", 0, cut), Piece("validation", cut, len(text))]

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        yield from book(tokens.ids, self._context, self._stride, drop_odd=split == "train")

    def training_windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        """The windows of the course's loader (create_dataloader_v1), of which training shuffles and drops by itself."""
        yield from book(tokens.ids, self._context, self._stride, drop_odd=False)

    def notes(self, rows: Sequence[Row]) -> list[str]:
        odd = [r for r in rows if r.split == "train" and len(range(0, len(r.ids) - self._context, self._stride)) % 2]
        if not odd:
            return []
        return [
            f"train has an odd number of windows in {len(odd)} text{'s' * (len(odd) > 1)}; the last in text order is "
            f"left out (the course shuffles and so leaves out a random one)"
        ]

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = averages_of_peers().book(rows)
        return numbers


def make_book(argument: str | None, *, context: int | None = None, stride: int | None = None) -> Protocol:
    """The from-scratch course's loader: 90 % train, 10 % validation, windows of 256, mean of batch means.

    Windows: the text is cut by characters at int(0.9 * length) into train and validation, each tokenized by itself;
    windows start at range(0, N-L, S). L is 256, or the model's context length if that is less, and S = L, unless
    given. An odd last window of train is left out, as drop_last does.
    Scored: t(i+1) .. t(i+L) in the window at i; t0 and the tail of each part never.
    Headline: per part the mean of the means of batches of two windows.
    """
    no_argument("book", argument)
    return Book(context, stride)


def book(ids: Sequence[int], context: int, stride: int, drop_odd: bool) -> Iterator[Window]:
    """The from-scratch course's loader (LLMs-from-scratch ch02, GPTDatasetV1); batches are pairs of windows.

    ``drop_odd`` leaves out the last window of an odd number, as ``drop_last`` does to a batch of two. The course
    shuffles first and so drops a random one; here it is the last in text order.
    """
    begins = range(0, len(ids) - context, stride)
    for begin in begins[: len(begins) // 2 * 2] if drop_odd else begins:
        yield Window(ids[begin : begin + context + 1], 1, begin)


@hookimpl
def register_protocols(register: Register) -> None:
    register("book", make_book)
