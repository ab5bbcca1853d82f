"""The protocol ``lm-eval``: lm-evaluation-harness's rolling windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from evalgpt.core import Encoding, EvaluationError, Model, Row, UsageError, Window
from evalgpt.core.hooks import Register, hookimpl
from evalgpt.core.protocol import DEFAULT_PROTOCOL, Protocol, Tokens
from evalgpt.protocols.base import averages_of_peers, no_argument

__all__ = ["lm_eval"]


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
                f"use protocol {DEFAULT_PROTOCOL}"
            )
        return super().bind(model)

    def windows(self, tokens: Tokens, split: str) -> Iterator[Window]:
        if tokens.prefix_id is None:
            raise RuntimeError("protocol lm-eval needs a prefix token")
        first = tokens.context_tokens
        if not tokens.has_context or first == 0:
            yield from lm_eval(tokens.ids, self._context, tokens.prefix_id)
        elif first < len(tokens.ids):
            yield self._continuation(tokens.ids, first)

    def context_tokens(self, model: Model, context: str, encoding: Encoding) -> int:
        """As many as the context alone is encoded to, its trailing white space left to the continuation.

        Source: ``_encode_pair`` in lm_eval/api/model.py.
        """
        from evalgpt.core.answers import encode  # numpy: not needed to list protocols

        return min(len(encode(model, context.rstrip(), "a document's context").ids), len(encoding.ids))

    def _continuation(self, ids: Sequence[int], first: int) -> Window:
        """lm-eval's ``loglikelihood``: no prefix, the context cut on the left, the continuation whole."""
        begin = max(len(ids) - self._context - 1, 0)
        if begin >= first:
            raise EvaluationError(
                f"a continuation of {len(ids) - first} tokens does not fit behind its context in {self.context} tokens"
            )
        return Window(ids[begin:], first - begin, begin)

    def peer(self, rows: Sequence[Row]) -> Mapping[str, float]:
        numbers: Mapping[str, float] = averages_of_peers().lm_eval(rows)
        return numbers


def make_lm_eval(argument: str | None, *, context: int | None = None) -> Protocol:
    """lm-evaluation-harness's rolling windows; word and byte perplexity and bits per byte as it counts them.

    Windows: the first feeds [prefix, t0 .. t(L-2)]; full ones carry one token of context; the last partial one of
    r tokens gets L-r+1 tokens of context, so that its input is always L. A document with a context is scored as its
    loglikelihood requests are: no prefix, cut on the left to L. No BOS is scored or fed before a context, as with its
    add_bos_token=False; by default it does both where a tokenizer adds BOS by itself.
    Scored: every token once. L is the model's context length unless given; its API back ends use L-1.
    Headline: exp(total NLL / words), words split on white space, exp(total NLL / bytes), and bits per byte.
    """
    no_argument("lm-eval", argument)
    return LmEval(context)


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


@hookimpl
def register_protocols(register: Register) -> None:
    register("lm-eval", make_lm_eval)
