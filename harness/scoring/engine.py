"""The engine: documents in, scored rows out. It plans windows, batches them by length and calls the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Document, Encoding, EvaluationError, Model, Row, Scored, TokenScores, UsageError, Window
from evalgpt.core.answers import encode, picked
from evalgpt.core.guard import calling, described
from evalgpt.core.protocol import DEFAULT_PROTOCOL, Piece, Protocol, Tokens
from evalgpt.core.validation import check_protocol, too_deep
from evalgpt.scoring.batching import Scorer, Work, draw

__all__ = [
    "Plan",
    "Progress",
    "Result",
    "bind",
    "check_tokens",
    "place_of",
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
        EvaluationError: a token id outside the model's vocabulary, nothing to score, or a model that answers with the
            wrong number of losses or with NaN.
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

    def where(number: int) -> str:
        return place_of(*chosen[number])

    for batch in draw(windows, scorer.size, scorer.model):
        scored = scorer.score([windows[i] for i in batch], picked(where, batch))
        for index, nll in zip(batch, scored, strict=True):
            plan, i = chosen[index]
            plan.nll[i] = nll
            done += len(nll)
            nll_sum += float(nll.sum(dtype=np.float64))
        if progress is not None:
            progress(Progress(done, total, nll_sum / done))


def bind(protocol: Protocol, model: Model) -> Protocol:
    """``protocol`` with every parameter decided for ``model``.

    Raises:
        UsageError: a parameter is out of range. EvaluationError: a protocol of a plugin failed, or made no protocol.
    """
    check_protocol(protocol)
    with calling(protocol, f"bind() to model {model.name}"):
        bound = protocol.bind(model)
    if not isinstance(bound, Protocol):
        raise EvaluationError(f"protocol {protocol.name}: bind() returned {described(bound)}, not a Protocol")
    with calling(protocol, "settings(), read as JSON,"):
        settings = bound.settings()
        if not isinstance(settings, dict) or too_deep(settings):
            raise EvaluationError(f"protocol {protocol.name}: settings() must be a dict that JSON can hold")
        msgspec.json.encode(settings)
    return bound


def place_of(plan: Plan, number: int) -> str:
    """Where the window ``number`` of ``plan`` is, for a message; windows are counted from 1."""
    split = f", {plan.piece.split} part" if plan.piece.split else ""
    return f"document {plan.document.id!r}{split}, window {number + 1} of {len(plan.windows)}"


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
            f"use one that can, such as {DEFAULT_PROTOCOL}"
        )
    where = f"document {document.id!r}"
    with calling(protocol, "pieces()", where):
        pieces = list(protocol.pieces(document.text))
    for piece in pieces:
        text = document.context + document.text[piece.start : piece.stop]
        encoding = encode(model, text, where)
        with calling(protocol, "context_tokens()", where):
            given = protocol.context_tokens(model, document.context, encoding) if document.context else 0
        tokens = Tokens(encoding.ids, given, bool(document.context), model.prefix_id, model.adds_bos)
        with calling(protocol, "windows()", where):
            windows = list(protocol.windows(tokens, piece.split))
        _check_windows(protocol, model, windows, (len(encoding.ids), where))
        yield Plan(document, piece, encoding, given, windows)


def _check_windows(protocol: Protocol, model: Model, windows: Sequence[object], of: tuple[int, str]) -> None:
    """Raise EvaluationError where a protocol of a plugin asks for what is no window of the document."""
    tokens, where = of
    for number, window in enumerate(windows, 1):
        if not isinstance(window, Window):
            wrong = f"is {described(window)}, not an evalgpt.Window"
        elif len(window.ids) - 1 > model.context_length:
            wrong = f"feeds {len(window.ids) - 1} tokens, more than the {model.context_length} of model {model.name}"
        elif window.begin + window.start < 0 or window.begin + len(window.ids) > tokens:
            end = window.begin + len(window.ids)
            wrong = f"scores tokens {window.begin + window.start} to {end - 1} of a text of {tokens}"
        else:
            continue
        raise EvaluationError(f"protocol {protocol.name}: window {number} of {where} {wrong}")


def _check_enough(plans: Sequence[Plan], protocol: Protocol) -> None:
    if not any(plan.windows for plan in plans):
        tokens = sum(len(plan.encoding.ids) for plan in plans)
        check_tokens(tokens)
        raise EvaluationError(
            f"nothing to score: protocol {protocol.name} with context {protocol.context} finds no window in "
            f"{tokens} tokens; give a longer text, a smaller --context or --protocol {DEFAULT_PROTOCOL}"
        )


def check_tokens(tokens: int) -> None:
    """Raise EvaluationError where texts of which nothing is scored have too few tokens for a loss."""
    if tokens < 2:
        raise EvaluationError(
            f"the text has {tokens} token{'s' * (tokens != 1)}; a loss needs at least 2, or 1 behind a prefix (BOS)"
        )


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
