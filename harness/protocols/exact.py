"""The protocol ``exact``: every token once, after at least half a context where it can be."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from evalgpt.core import Model, UsageError, Window
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.core.protocol import Protocol, Tokens
from evalgpt.protocols.base import Strided, no_argument

__all__ = ["exact"]


@dataclass(frozen=True)
class Exact(Strided):
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
        return exact(ids, self._context, self._stride, prefix_id if self.prefix == "auto" else None)


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
    no_argument("exact", argument)
    if prefix not in ("auto", "none"):
        raise UsageError(f"protocol 'exact': prefix must be auto or none, not {prefix!r}")
    return Exact(context, stride, prefix)


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


@hookimpl
def register_protocols(register: Register) -> None:
    register("exact", make_exact)
