"""The protocol ``llama.cpp``: chunks, the second half of each scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evalgpt.core import EvaluationError, Model, Row, Window
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.core.protocol import Protocol, Tokens
from evalgpt.protocols.base import averages_of_peers, no_argument

__all__ = ["llama_cpp"]


@dataclass(frozen=True)
class LlamaCpp(Protocol):
    name = "llama.cpp"
    source = "llama.cpp"
    smallest_context = 3
    headline = "perplexity"
    overwrites_first = True

    def default_context(self, model: Model) -> int:
        return min(512, model.context_length)

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        if not tokens.adds_bos or tokens.prefix_id is None:
            yield from llama_cpp(tokens.ids, self._context, None)
            return
        # llama.cpp tokenizes with BOS in front, so its chunks count that token as the text's first.
        for window in llama_cpp([tokens.prefix_id, *tokens.ids], self._context, tokens.prefix_id):
            yield replace(window, begin=window.begin - 1)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = averages_of_peers().llama_cpp(rows)
        return numbers


def make_llama_cpp(argument: str | None, *, context: int | None = None) -> Protocol:
    """llama.cpp's chunks (512 tokens), the second half of each scored, with its standard error.

    Windows: the floor(N / L) whole chunks, at least two; BOS overwrites each chunk's first token where the
    vocabulary adds BOS. L is 512, or the model's context length if that is less, unless given.
    Scored: in each chunk the tokens that positions L/2 .. L-2 predict, L-1-L/2 of them.
    Headline: exp(mean) and PPL * sqrt(variance / (count - 1)).
    """
    no_argument("llama.cpp", argument)
    return LlamaCpp(context)


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


@hookimpl
def register_protocols(register: Register) -> None:
    register("llama.cpp", make_llama_cpp)
