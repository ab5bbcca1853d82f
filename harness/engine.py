"""The engine: documents in, scored rows out. It plans windows, batches them by length and calls the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evalgpt.batching import Scorer, Work, draw
from evalgpt.core import Document, Encoding, EvaluationError, Model, Row, Scored, TokenScores, UsageError, Window
from evalgpt.protocols import Piece, Protocol, Tokens

__all__ = [
    "Plan",
    "Progress",
    "Result",
    "check_finite",
    "check_tokens",
    "encode",
    "plan_and_score",
    "plan_windows",
    "row_of",
    "score_documents",
    "score_windows",
]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the scoring is, for a progress bar: scored tokens done and in all, and the mean NLL so far."""

    done: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class Result:
    """Rows in the order of the documents, with what it took to get them."""

    rows: list[Row]
    documents: list[Document]
    work: Work
    encoding_seconds: float
    scoring_seconds: float


@dataclass(slots=True)
class Plan:
    """A piece of a document on its way to becoming a row; ``nll`` is window by window, empty where not yet scored."""

    document: Document
    piece: Piece
    encoding: Encoding
    context_tokens: int
    windows: list[Window]
    nll: list[NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        self.nll = [np.empty(0, np.float32)] * len(self.windows)


def score_documents(
    scorer: Scorer,
    documents: Iterable[Document],
    protocol: Protocol,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Score every window that ``protocol``, bound to the scorer's model, draws over ``documents``.

    What is in a batch depends on the windows and on the batch size alone.

    Raises:
        EvaluationError: a token id outside the model's vocabulary, fewer than two tokens in all, nothing to
            score, or a model that answers with the wrong number of losses or with NaN.
        UsageError: the protocol cannot take documents with a context.
    """

    def every(plans: Sequence[Plan]) -> None:
        score_windows(scorer, [(plan, i) for plan in plans for i in range(len(plan.windows))], progress=progress)

    return plan_and_score(scorer, documents, protocol, every)


def plan_and_score(
    scorer: Scorer, documents: Iterable[Document], protocol: Protocol, score: Callable[[list[Plan]], None]
) -> Result:
    """Plan windows, let ``score`` fill in their losses, and make rows of them, with the time each took."""
    began = time.perf_counter()
    kept = [document.whole() for document in documents]
    plans = plan_windows(scorer.model, kept, protocol)
    encoded = time.perf_counter()
    score(plans)
    return Result(
        rows=[row_of(plan, _detail_of(plan, scorer)) for plan in plans],
        documents=kept,
        work=scorer.work,
        encoding_seconds=encoded - began,
        scoring_seconds=time.perf_counter() - encoded,
    )


def score_windows(
    scorer: Scorer, chosen: Sequence[tuple[Plan, int]], *, progress: Callable[[Progress], None] | None = None
) -> None:
    """Score the ``chosen`` windows, each by its plan and its number there, into ``plan.nll``.

    Batches are drawn as if nothing were remembered, so that a run which goes on where another was stopped computes the
    same batches, to the same digits.

    Raises:
        EvaluationError: a model that answers with the wrong number of losses, with NaN or with infinity.
    """
    windows = [plan.windows[i] for plan, i in chosen]
    total = sum(len(w.ids) - w.start for w in windows)
    done, nll_sum = 0, 0.0
    for batch in draw(windows, scorer.size, scorer.model.shares_prefixes):
        for index, nll in zip(batch, scorer.score([windows[i] for i in batch]), strict=True):
            plan, i = chosen[index]
            check_finite(scorer.model, plan.document, nll)
            plan.nll[i] = nll
            done += len(nll)
            nll_sum += float(nll.sum(dtype=np.float64))
        if progress is not None:
            progress(Progress(done, total, nll_sum / done))


def check_finite(model: Model, document: Document, nll: NDArray[np.float32]) -> None:
    """Raise EvaluationError where a loss is no number."""
    if not np.isfinite(nll).all():
        what = "NaN as a loss" if np.isnan(nll).any() else "an infinite loss, a probability of zero,"
        raise EvaluationError(f"model {model.name} gave {what} in document {document.id!r}")


def plan_windows(model: Model, documents: Iterable[Document], protocol: Protocol, *, enough: bool = True) -> list[Plan]:
    """Tokenize ``documents`` and draw the windows of ``protocol``, bound to ``model``; ``enough`` asks for one.

    Raises:
        EvaluationError, UsageError: as :func:`score_documents`.
    """
    plans: list[Plan] = []
    names: set[str] = set()
    for document in (document.whole() for document in documents):
        if document.id in names:
            raise EvaluationError(f"two documents are called {document.id!r}; each needs an id of its own")
        names.add(document.id)
        plans += _plan(model, document, protocol)
    if enough:
        _check_enough(plans, protocol)
    return plans


def _plan(model: Model, document: Document, protocol: Protocol) -> Iterator[Plan]:
    if document.context and not protocol.takes_context_documents:
        raise UsageError(
            f"protocol {protocol.name} cannot score a continuation of a context, as in document {document.id!r}; "
            f"use exact or lm-eval"
        )
    for piece in protocol.pieces(document.text):
        text = document.context + document.text[piece.start : piece.stop]
        encoding = encode(model, text, f"document {document.id!r}")
        given = protocol.context_tokens(model, document.context, encoding) if document.context else 0
        tokens = Tokens(encoding.ids, given, bool(document.context), model.prefix_id, model.adds_bos)
        windows = list(protocol.windows(tokens, piece.split))
        yield Plan(document, piece, encoding, given, windows)


def encode(model: Model, text: str, where: str) -> Encoding:
    """The tokens of ``text``, every one of them in the model's vocabulary; errors say that it is ``where``.

    Raises:
        EvaluationError: a token id outside the vocabulary, or not one byte span for each token.
    """
    encoding = model.encode(text)
    if encoding.byte_spans is not None and len(encoding.byte_spans) != len(encoding.ids):
        raise EvaluationError(
            f"model {model.name} gave {len(encoding.byte_spans)} byte spans for {len(encoding.ids)} tokens"
        )
    if len(encoding.ids) and not 0 <= min(encoding.ids) <= max(encoding.ids) < model.vocab_size:
        wrong = next(i for i in encoding.ids if not 0 <= i < model.vocab_size)
        raise EvaluationError(
            f"token id {wrong} in {where} is outside the vocabulary of model {model.name}, "
            f"0 to {model.vocab_size - 1}: the tokenizer does not belong to these weights"
        )
    return encoding


def _check_enough(plans: Sequence[Plan], protocol: Protocol) -> None:
    tokens = sum(len(plan.encoding.ids) for plan in plans)
    check_tokens(tokens)
    if not any(plan.windows for plan in plans):
        raise EvaluationError(
            f"nothing to score: protocol {protocol.name} with context {protocol.context} finds no window in "
            f"{tokens} tokens; give a longer text, a smaller --context or --protocol exact"
        )


def check_tokens(tokens: int) -> None:
    """Raise EvaluationError where a text has too few tokens for a loss."""
    if tokens < 2:
        raise EvaluationError(f"the text has {tokens} token{'s' * (tokens != 1)}; a loss needs at least 2")


def _detail_of(plan: Plan, scorer: Scorer) -> TokenScores | None:
    """What the scorer keeps of the plan's windows, handed over and joined in their order."""
    found = [scorer.details.pop(id(window))[1] for window in plan.windows if id(window) in scorer.details]
    if not found:
        return None
    columns = ([getattr(one, name) for one in found] for name in ("nll", "rank", "entropy", "top_ids", "top_logprobs"))
    return TokenScores(*(np.concatenate(column) for column in columns))


def row_of(plan: Plan, detail: TokenScores | None = None) -> Row:
    """The row of a plan whose windows are scored."""
    text = plan.document.text
    return Row(
        document=plan.document,
        split=plan.piece.split,
        text=text[plan.piece.start : plan.piece.stop],
        offset=len(text[: plan.piece.start].encode()),
        ids=plan.encoding.ids,
        byte_spans=plan.encoding.byte_spans,
        context_tokens=plan.context_tokens,
        windows=[Scored(w.begin + w.start, len(w.ids) - w.start, w.start) for w in plan.windows],
        nll=np.concatenate(plan.nll) if plan.nll else np.empty(0, np.float32),
        detail=detail,
    )
