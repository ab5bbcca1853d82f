"""The protocol ``hf-strided``: the transformers documentation's strided windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evalgpt.core import Model, Row, Window
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.core.protocol import Protocol, Tokens
from evalgpt.protocols.base import Strided, averages_of_peers, no_argument

__all__ = ["hf_strided"]


@dataclass(frozen=True)
class HfStrided(Strided):
    name = "hf-strided"
    source = "transformers documentation"
    smallest_context = 2
    headline = "perplexity_v1"

    def default_context(self, model: Model) -> int:
        return model.context_length

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        yield from hf_strided(tokens.ids, self._context, self._stride)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = averages_of_peers().hf_strided(rows, self._context, self._stride)
        return numbers


def make_hf_strided(argument: str | None, *, context: int | None = None, stride: int | None = None) -> Protocol:
    """The transformers documentation's strided windows, with its three published averagings.

    Windows: tokens b .. b+L-1 for b = 0, S, 2S, ..., without BOS. L is the model's context length and S half of it,
    unless given.
    Scored: each window's tokens that no earlier one held; never t0, and with S = L never a window's first.
    Headline: exp of window means weighted by trg_len (v1), by one (v2), by trg_len - 1 (v3).
    """
    no_argument("hf-strided", argument)
    return HfStrided(context, stride)


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


@hookimpl
def register_protocols(register: Register) -> None:
    register("hf-strided", make_hf_strided)
