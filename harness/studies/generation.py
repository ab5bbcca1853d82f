"""Text written by a model: the likeliest token each time, or one drawn at random.

The loop is the course's ``generate_text_simple``, and with a temperature its ``generate`` ("Build a Large Language
Model (From Scratch)", Raschka 2024, chapters 4 and 5): feed the last tokens that fit the context, take one more,
repeat.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, Unpack

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import EvaluationError, Model, UsageError
from evalgpt.core.answers import encode, next_logits
from evalgpt.core.options import choose_options
from evalgpt.core.plugins import built
from evalgpt.report.describe import model_info
from evalgpt.report.document import ModelInfo
from evalgpt.studies.spelling import Speller

__all__ = ["SCHEMA", "TOKENS", "Generation", "GenerationChanges", "GenerationOptions", "Sampling", "generate"]


SCHEMA: Final = "evalgpt.generation/1"

TOKENS = 25
"""How many tokens to write by default: a sentence or two."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How a token is chosen: ``temperature`` 0 takes the likeliest; above, logits are divided by it, of which with
    ``top_k`` only the k largest count, and one is drawn by a generator that begins at ``seed``. With ``stop_at_eos``
    the text ends where the model says that it ends."""

    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0
    stop_at_eos: bool = True

    def check(self) -> None:
        """Raise UsageError for settings out of range or without effect."""
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature must be 0 (take the likeliest) or above, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k must be at least 1, not {self.top_k}")
        if self.top_k is not None and self.temperature == 0:
            raise UsageError("top-k narrows what is drawn, and temperature 0 draws nothing; give a temperature, as 1")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0, not {self.seed}")


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What was written behind ``prompt``: ``ids``, what they spell together (``text``), and the log-probability (nats)
    of each after all before it, of the model's own distribution, whatever the temperature.

    ``fed_ids`` are the prompt's tokens, a prefix token among them where one was put first. ``stopped`` says why the
    text ends: ``eos`` (that token is not in ``ids``) or ``tokens``, as many as were asked for.
    """

    schema: str = SCHEMA
    command: list[str] = []
    model: ModelInfo
    prompt: str
    fed_ids: list[int]
    sampling: Sampling
    ids: list[int]
    log_probabilities: list[float]
    text: str
    stopped: Literal["eos", "tokens"]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """The options of :func:`evalgpt.generate`.

    Args:
        tokens: how many to write at most.
        sampling: how they are chosen; the likeliest by default.
        prefix: put the model's BOS (else EOS) first; by default where its tokenizer does so or the prompt is empty.
        on_text: called with each piece of text as soon as it is certain; together they are ``Generation.text``.
        device, dtype: passed on to a model given as a spec.
    """

    tokens: int = TOKENS
    sampling: Sampling | None = None
    prefix: bool | None = None
    on_text: Callable[[str], None] | None = None
    device: str | None = None
    dtype: str | None = None


class GenerationChanges(TypedDict, total=False):
    """The fields of :class:`GenerationOptions` as keywords, so that a type checker knows them."""

    tokens: int
    sampling: Sampling | None
    prefix: bool | None
    on_text: Callable[[str], None] | None
    device: str | None
    dtype: str | None


def generate(
    model: Model | str, prompt: str, options: GenerationOptions | None = None, **changes: Unpack[GenerationChanges]
) -> Generation:
    """Let ``model`` go on with ``prompt``.

    Args:
        model: a Model, or a spec such as ``"scratch:weights=model.pth"``.
        prompt: may be empty where the model has a token to begin with.
        options: how many tokens to write and how to choose them (:class:`GenerationOptions`).
        changes: fields of ``options`` to replace, as in ``tokens=5``.

    Raises:
        UsageError: the model gives no logits; settings out of range; no token to begin with.
        EvaluationError: the prompt cannot be encoded; logits that are NaN. TypeError: an unknown keyword.
    """
    options = choose_options(GenerationOptions, options, changes)
    tokens, sampling = options.tokens, options.sampling or Sampling()
    sampling.check()
    if tokens < 1:
        raise UsageError(f"tokens must be at least 1, not {tokens}")
    model = built(model, options.device, options.dtype)
    fed = _fed(model, prompt, options.prefix)
    speller = Speller(model, fed)
    pieces: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        if piece and options.on_text is not None:
            options.on_text(piece)

    ids: list[int] = []
    chances: list[float] = []
    for token, chance in itertools.islice(_drawn(model, fed, sampling), min(tokens, sys.maxsize)):
        ids.append(token)
        chances.append(chance)
        write(speller(token))
    write(speller.rest())
    return Generation(
        model=model_info(model),
        prompt=prompt,
        fed_ids=fed,
        sampling=sampling,
        ids=ids,
        log_probabilities=chances,
        text="".join(pieces),
        stopped="tokens" if len(ids) == tokens else "eos",
    )


def _drawn(model: Model, fed: list[int], sampling: Sampling) -> Iterator[tuple[int, float]]:
    """One token after another behind ``fed``, with its log-probability, until the text ends."""
    random = np.random.default_rng(sampling.seed)
    ids = list(fed)
    while True:
        logits = _next(model, ids)
        token = _choose(_allowed(model, logits), sampling, random)
        if sampling.stop_at_eos and token in model.eos_ids:
            return
        ids.append(token)
        yield token, float(logits[token] - _log_sum(logits))


def _fed(model: Model, prompt: str, prefix: bool | None) -> list[int]:
    """The prompt's tokens, behind a prefix token if one is wanted."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise EvaluationError(f"the prompt is not UTF-8: character {error.start} is {prompt[error.start]!a}") from None
    wanted = (model.adds_bos or not prompt) if prefix is None else prefix
    ids = [int(i) for i in encode(model, prompt, "the prompt").ids] if prompt else []
    if wanted and model.prefix_id is None:
        why = "" if prompt else "the prompt is empty, and "
        raise UsageError(f"{why}model {model.name} has neither BOS nor EOS to begin a text with; give a prompt")
    if wanted and model.prefix_id is not None:
        return [int(model.prefix_id), *ids]
    if not ids:
        raise UsageError("the prompt is empty: there is no token to go on from; give a prompt, or a prefix")
    return ids


def _next(model: Model, ids: list[int]) -> NDArray[np.float64]:
    """Logits [V] behind ``ids``, cut on the left to what the model takes."""
    wide: NDArray[np.float64] = next_logits(model, ids[-model.context_length :])[0].astype(np.float64)
    return wide


def _allowed(model: Model, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """``logits`` with those of ids that are no token out of reach.

    Raises:
        EvaluationError: nothing else is left.
    """
    if not model.unused_ids:
        return logits
    allowed = logits.copy()
    allowed[np.asarray(model.unused_ids)] = -np.inf
    if not np.isfinite(allowed.max()):
        raise EvaluationError(f"model {model.name} gives every token of its tokenizer the probability of zero")
    return allowed


def _choose(logits: NDArray[np.float64], sampling: Sampling, random: np.random.Generator) -> int:
    if sampling.temperature == 0:
        return int(logits.argmax())  # of equal ones the lowest id
    with np.errstate(over="ignore"):
        scaled = (logits - logits.max()) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < len(scaled):
        scaled = np.where(scaled >= np.partition(scaled, -sampling.top_k)[-sampling.top_k], scaled, -np.inf)
    cumulative = np.exp(scaled).cumsum()
    drawn = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
    return min(drawn, int(np.flatnonzero(scaled > -np.inf)[-1]))


def _log_sum(logits: NDArray[np.float64]) -> float:
    largest = float(logits.max())
    return largest + float(np.log(np.exp(logits - largest).sum()))
