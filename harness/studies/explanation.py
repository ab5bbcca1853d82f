"""The walk from logits to perplexity, token by token, on texts of the reader's own.

Six steps lead from what a model puts out to its loss: logits, probabilities, the targets' probabilities, their
logarithms, the average of these, and its negative ("Build a Large Language Model (From Scratch)", Raschka 2024,
chapter 5). They are taken here in float64, one by one, from the model's logits, and held against the loss that
``Model.score`` gives in one call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Detail, Encoding, EvaluationError, GivesLogits, Model, TokenScores, UsageError, Window
from evalgpt.core.answers import ask, decode, encode, next_logits
from evalgpt.core.plugins import built
from evalgpt.report.describe import model_info
from evalgpt.report.document import ModelInfo
from evalgpt.studies.spelling import spell, spell_after

__all__ = ["SCHEMA", "Candidate", "Explained", "Explanation", "Prediction", "Token", "explain"]


SCHEMA: Final = "evalgpt.explanation/1"

BLOCK = 64
"""Positions whose distributions are held in float64 at once."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token: its number in the vocabulary, and what it spells here; bytes that are no whole character as ``\\xNN``
    where they are known, else as U+FFFD."""

    id: int
    text: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One of the tokens that the model held likeliest."""

    token: Token
    probability: float
    log_probability: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One position: after ``input`` (and all before it) the model was to say ``target``.

    ``logit`` is the target's (step 1), null where the model gives no logits; ``log_normaliser`` is the log of the sum
    of the exponentials of all logits, so that ``probability`` = exp(logit - log_normaliser) (steps 2 and 3);
    ``log_probability`` (step 4) and ``score``, the loss by ``Model.score``, are in nats. ``rank`` is how many tokens
    the model held likelier than the target, null where it does not tell. ``likeliest`` comes likeliest first.
    """

    input: Token
    target: Token
    predicted: Token | None
    logit: float | None
    log_normaliser: float | None
    probability: float
    log_probability: float
    rank: int | None
    score: float
    likeliest: list[Candidate]


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One text: its tokens with their places in its UTF-8 bytes (null where the tokenizer cannot tell), and what the
    model predicted. With a prefix, the first prediction is that of the first token."""

    text: str
    tokens: list[Token]
    byte_starts: list[int] | None
    byte_ends: list[int] | None
    predictions: list[Prediction]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The walk, of one or more texts; averages are flat, over all predictions of all texts.

    ``mean_log_probability`` is step 5 and ``loss``, its negative, step 6 (nats per token). ``cross_entropy`` is the
    same by ``Model.score``, whose losses are float32; ``largest_difference`` is the largest between a token's two, null
    where the model gives no logits and the walk itself begins with its scores. ``perplexity`` is exp(loss), null where
    that exceeds a float. ``prefix`` is the token put before each text.
    """

    schema: str = SCHEMA
    command: list[str] = []
    model: ModelInfo
    prefix: Token | None
    texts: list[Explained]
    mean_log_probability: float
    loss: float
    cross_entropy: float
    largest_difference: float | None
    perplexity: float | None


def explain(
    model: Model | str,
    texts: str | Sequence[str],
    *,
    top: int = 3,
    prefix: bool = False,
    device: str | None = None,
    dtype: str | None = None,
) -> Explanation:
    """Walk from logits to perplexity on ``texts``.

    Args:
        model: a Model, or a spec such as ``"scratch:seed=7"``.
        texts: one text, or several, of which each must fit the model's context.
        top: how many of the likeliest tokens to list at each position.
        prefix: put the model's BOS (else EOS) before each text, so that the first token is predicted as well.
        device, dtype: passed on to a model given as a spec.

    Raises:
        UsageError: a text longer than the context, no token for ``prefix``, ``top`` below 0.
        EvaluationError: a text with nothing to predict, or that cannot be encoded; a model that gives NaN.
    """
    model = built(model, device, dtype)
    texts = [texts] if isinstance(texts, str) else list(texts)
    before = _prefix(model, prefix)
    if top < 0:
        raise UsageError(f"top must be at least 0, not {top}")
    top = min(top, model.vocab_size)
    if not texts:
        raise EvaluationError("there is no text to explain")
    encodings = [_encoded(model, text, number, before) for number, text in enumerate(texts, 1)]
    explained = [
        _explained(model, text, e, before, (top, number))
        for number, (text, e) in enumerate(zip(texts, encodings, strict=True), 1)
    ]
    return _whole(model, before, explained)


def _whole(model: Model, before: int | None, explained: list[Explained]) -> Explanation:
    every = [prediction for text in explained for prediction in text.predictions]
    mean = math.fsum(p.log_probability for p in every) / len(every)
    gaps = [abs(p.score + p.log_probability) for p in every]
    return Explanation(
        model=model_info(model),
        prefix=None if before is None else Token(id=before, text=decode(model, [before])),
        texts=explained,
        mean_log_probability=mean,
        loss=-mean,
        cross_entropy=math.fsum(p.score for p in every) / len(every),
        largest_difference=max(gaps) if isinstance(model, GivesLogits) else None,
        perplexity=math.exp(-mean) if -mean < math.log(np.finfo(np.float64).max) else None,
    )


def _prefix(model: Model, wanted: bool) -> int | None:
    if wanted and model.prefix_id is None:
        raise UsageError(f"model {model.name} has neither BOS nor EOS to put before a text; leave the prefix out")
    return int(model.prefix_id) if wanted and model.prefix_id is not None else None


def _encoded(model: Model, text: str, number: int, before: int | None) -> Encoding:
    where = f"text {number}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EvaluationError(f"{where} is not UTF-8: character {error.start} is {text[error.start]!a}") from None
    encoding = encode(model, text, where)
    count = len(encoding.ids)
    if not count:
        raise EvaluationError(f"{where} is empty; there is nothing to predict")
    if count < 2 and before is None:
        raise EvaluationError(f"{where} has 1 token, and a prediction needs one before it; --prefix puts BOS there")
    fed = count - 1 if before is None else count
    if fed > model.context_length:
        raise UsageError(
            f"{where} feeds {fed} tokens, more than the {model.context_length} of model {model.name}'s context; a "
            f"longer text is for 'evalgpt run', which cuts it into windows"
        )
    return encoding


def _explained(model: Model, text: str, encoding: Encoding, before: int | None, how: tuple[int, int]) -> Explained:
    top, number = how
    ids = [int(i) for i in encoding.ids]
    tokens = [Token(id=i, text=t) for i, t in zip(ids, spell(encoding, text, model), strict=True)]
    lead = [] if before is None else [Token(id=before, text=decode(model, [before]))]
    stream = [*lead, *tokens]
    window = Window([token.id for token in stream], 1)
    (scores,) = ask(model, [window], Detail(rank=True, top=max(top, 1)), lambda _: f"text {number}", all_=False)
    spans = encoding.byte_spans
    return Explained(
        text=text,
        tokens=tokens,
        byte_starts=None if spans is None else [int(start) for start, _ in spans],
        byte_ends=None if spans is None else [int(end) for _, end in spans],
        predictions=_from_logits(model, stream, scores, top)
        if isinstance(model, GivesLogits)
        else _plain(model, stream, scores, top),
    )


def _from_logits(model: Model, stream: Sequence[Token], scores: TokenScores, top: int) -> list[Prediction]:
    """Steps 1 to 4, each from the one before it, in float64."""
    fed = [token.id for token in stream[:-1]]
    logits = next_logits(model, fed, len(fed))
    if np.isneginf(logits[np.arange(len(fed)), [token.id for token in stream[1:]]]).any():
        raise EvaluationError(f"model {model.name} gave a target the probability of zero")
    found = []
    for begin in range(0, len(fed), BLOCK):
        wide = logits[begin : begin + BLOCK].astype(np.float64)
        largest = wide.max(1, keepdims=True)
        exponentials = np.exp(wide - largest)
        total = exponentials.sum(1, keepdims=True)
        log_probabilities = wide - (largest + np.log(total))
        rows = zip(wide, (largest + np.log(total))[:, 0], log_probabilities, strict=True)
        for at, (row, normaliser, logs) in enumerate(rows, begin):
            target = stream[at + 1]
            likeliest = _candidates(model, stream[at], _largest(row, max(top, 1)), logs)
            found.append(
                Prediction(
                    input=stream[at],
                    target=target,
                    predicted=likeliest[0].token,
                    logit=float(row[target.id]),
                    log_normaliser=float(normaliser),
                    probability=math.exp(logs[target.id]),
                    log_probability=float(logs[target.id]),
                    rank=int((row > row[target.id]).sum()),
                    score=float(scores.nll[at]),
                    likeliest=likeliest[:top],
                )
            )
    return found


def _plain(model: Model, stream: Sequence[Token], scores: TokenScores, top: int) -> list[Prediction]:
    """Steps 3 and 4 of a model that gives losses alone."""
    found = []
    for at, nll in enumerate(scores.nll):
        likeliest: list[Candidate] = []
        if scores.top_ids is not None and scores.top_logprobs is not None:
            logs = dict(zip(scores.top_ids[at].tolist(), scores.top_logprobs[at].tolist(), strict=True))
            likeliest = _candidates(model, stream[at], list(logs), logs)
        found.append(
            Prediction(
                input=stream[at],
                target=stream[at + 1],
                predicted=likeliest[0].token if likeliest else None,
                logit=None,
                log_normaliser=None,
                probability=math.exp(-float(nll)),
                log_probability=-float(nll),
                rank=None if scores.rank is None else int(scores.rank[at]),
                score=float(nll),
                likeliest=likeliest[:top],
            )
        )
    return found


def _largest(row: NDArray[np.float64], count: int) -> list[int]:
    """The ``count`` largest of ``row``, largest first; of equal ones the lower id."""
    count = min(count, len(row))
    chosen = np.flatnonzero(row >= np.partition(row, -count)[-count])
    return [int(i) for i in chosen[np.argsort(-row[chosen], kind="stable")][:count]]


def _candidates(
    model: Model, behind: Token, ids: Sequence[int], logs: NDArray[np.float64] | dict[int, float]
) -> list[Candidate]:
    return [
        Candidate(
            token=Token(id=i, text=spell_after(model, behind.id, i)),
            probability=math.exp(logs[i]),
            log_probability=float(logs[i]),
        )
        for i in ids
        if logs[i] > -math.inf  # a forbidden token is no candidate
    ]
