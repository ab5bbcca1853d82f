"""Sanity verdicts: what looks wrong with a number although nothing failed. They warn; they change no number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from evalgpt.core import Model
from evalgpt.core.protocol import DEFAULT_PROTOCOL
from evalgpt.report.faults import TextFaults
from evalgpt.report.metrics import Ledger, Metrics

__all__ = ["Verdict", "judge"]


ENOUGH = 20
"""Scores below which a mean is too uncertain to be judged."""

IMPLAUSIBLE_BITS = 0.3
"""Bits per byte below which no model predicts text that it has not seen: a 70-billion-parameter model compresses
Wikipedia to 0.66 (Delétang et al. 2023, "Language modeling is compression")."""

BYTES_PER_TOKEN = 4.0
"""Of English text and GPT-2's tokenizer, roughly; where a tokenizer cannot tell its tokens' bytes."""

LIKE_RANDOM = 0.85
"""Share of ln(vocabulary) above which loaded weights predict no better than drawn ones; GPT-2 on English has 0.35."""

KNOWS_TOO_MUCH = 1.0
"""Nats below ln(vocabulary) that drawn weights cannot reach but by reading the answer."""

MOSTLY = 0.55
"""Share of unscored tokens to warn of; llama.cpp leaves out half by design, and a ledger says so."""

FAR_BELOW = 4
"""How many times the context that was used goes into what the model can take, to be called far below."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Something to look at before the number is believed: ``name`` for programs, ``message`` for people."""

    name: str
    message: str


def judge(model: Model, metrics: Metrics, counted: Ledger, useful: int, faults: TextFaults) -> list[Verdict]:
    """What is suspicious about ``metrics`` of ``model``, whose tokens are ``counted``, and the ``faults`` of its texts.

    ``useful`` is how much context the protocol would take with this model unless less is asked for, and the longest
    text has.
    """
    return [
        *_loss(model, metrics),
        *_coverage(counted),
        *_context(useful, counted),
        *_vocabulary(model),
        *(Verdict(name, message) for name, message in faults.messages()),
        *_warnings(model),
    ]


def _loss(model: Model, metrics: Metrics) -> Iterator[Verdict]:
    if metrics.scores < ENOUGH:
        return
    uniform = math.log(model.vocab_size)
    against = f"loss {metrics.loss:.4f} against ln {model.vocab_size} = {uniform:.4f}"
    if metrics.loss > uniform:
        drawn = ", as weights drawn at random are" if model.trained is False else ""
        look = "" if drawn else "; are logits and targets shifted, or the tokenizer another model's?"
        yield Verdict("worse_than_uniform", f"worse than guessing among all tokens ({against}){drawn}{look}")
    elif model.trained and metrics.loss > LIKE_RANDOM * uniform:
        yield Verdict(
            "like_random",
            f"the weights were loaded and score like random ones ({against}): was it trained for long, were all of"
            f" them loaded, is the tokenizer theirs, and the text of a language they know?",
        )
    elif model.trained is False and metrics.loss < uniform - KNOWS_TOO_MUCH:
        yield Verdict(
            "target_leak",
            f"weights drawn at random cannot be this good ({against}): the model sees the tokens it is to predict",
        )
    bits = metrics.bits_per_byte
    if bits is None:
        bits = metrics.bits_per_token / BYTES_PER_TOKEN
    if bits < IMPLAUSIBLE_BITS:
        yield Verdict(
            "too_good",
            f"{bits:.3f} bits per byte is far better than any model predicts new text: does it see its targets, was "
            f"the text learnt by heart, or does it repeat itself?",
        )


def _coverage(counted: Ledger) -> Iterator[Verdict]:
    wanted = counted.tokens - counted.given
    unscored = 1 - counted.scored / wanted
    if unscored > MOSTLY:
        yield Verdict(
            "mostly_unscored",
            f"{unscored:.0%} of the tokens were not scored; protocol {DEFAULT_PROTOCOL} scores them all",
        )
    elif counted.unscored_pieces > counted.pieces / 2:
        yield Verdict(
            "mostly_unscored",
            f"{counted.unscored_pieces} of {counted.pieces} texts were not scored; protocol {DEFAULT_PROTOCOL} scores "
            f"them all",
        )


def _context(useful: int, counted: Ledger) -> Iterator[Verdict]:
    if counted.context is None:
        return
    used = counted.context.largest
    if used * FAR_BELOW <= useful:
        yield Verdict(
            "short_context",
            f"no token was predicted from more than {used} tokens, where model, protocol and text allow {useful}: a "
            f"trained model's loss may be lower with a longer --context",
        )


def _vocabulary(model: Model) -> Iterator[Verdict]:
    size = model.tokenizer.get("vocab_size")
    if isinstance(size, int) and size > model.vocab_size:
        yield Verdict(
            "vocabulary",
            f"the tokenizer has {size} tokens and the model {model.vocab_size}: they do not belong together",
        )
    elif isinstance(size, int) and size < model.vocab_size / 2:
        yield Verdict(
            "vocabulary",
            f"the tokenizer has {size} tokens and the model {model.vocab_size}, of which most can never occur",
        )


def _warnings(model: Model) -> Iterator[Verdict]:
    """What the adapter itself says of its model."""
    for warning in model.warnings:
        yield Verdict("model_warning", f"model {model.name}: {warning}")
