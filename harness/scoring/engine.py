"""The engine: documents in, scored rows out. It plans windows, batches them by length and calls the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Document, Encoding, EvaluationError, Model, Row, Scored, TokenScores, UsageError, Window
from evalgpt.core.answers import Where, encode, picked
from evalgpt.core.guard import calling, described
from evalgpt.core.protocol import DEFAULT_PROTOCOL, Piece, Protocol, Tokens
from evalgpt.core.validation import check_protocol, too_deep
from evalgpt.report.document import Sample
from evalgpt.scoring.batching import Scorer, Work, make_batches

__all__ = [
    "Place",
    "Plan",
    "Progress",
    "Reporter",
    "Result",
    "all_windows",
    "answer_batches",
    "bind",
    "check_tokens",
    "place_of",
    "plan_and_score",
    "plan_windows",
    "row_of",
    "score_batches",
    "score_documents",
    "score_windows",
    "windows_at",
]

Place = tuple[int, int]
"""A window: the number of its plan, and its number there, from 0."""

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the scoring is, for a progress bar: scored tokens done and in all, and the mean NLL so far."""

    done: int
    total: int
    loss: float


class Reporter(Generic[A]):
    """Adds up the answers of ``windows`` and tells ``progress`` how far they are; ``values`` gives an answer's float
    array [n], one number for each scored token."""

    def __init__(
        self, progress: Callable[[Progress], None], windows: Sequence[Window], values: Callable[[A], NDArray[Any]]
    ) -> None:
        self.progress, self.values = progress, values
        self.total = sum(len(window.ids) - window.start for window in windows)
        self.done, self.sum = 0, 0.0

    def add(self, answer: A) -> None:
        """Count one window's answer."""
        values = self.values(answer)
        self.done += len(values)
        self.sum += float(values.sum(dtype=np.float64))

    def report(self) -> None:
        """Call ``progress`` with what was added so far."""
        self.progress(Progress(self.done, self.total, self.sum / self.done))


@dataclass(frozen=True, slots=True)
class Result:
    """Rows in the order of the documents, with what it took to get them; ``sample`` says which windows were scored
    where not all were."""

    rows: list[Row]
    documents: list[Document]
    work: Work
    encoding_seconds: float
    scoring_seconds: float
    sample: Sample | None = None


@dataclass(slots=True)
class Plan:
    """A piece of a document on its way to becoming a row; ``scores``, one for each window, are empty until scored."""

    document: Document
    piece: Piece
    encoding: Encoding
    context_tokens: int
    windows: list[Window]
    scores: list[TokenScores] = field(init=False)

    def __post_init__(self) -> None:
        self.scores = [TokenScores(np.empty(0, np.float32))] * len(self.windows)


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
        score_windows(scorer, plans, all_windows(plans), progress=progress)

    return plan_and_score(scorer, documents, protocol, every)


def plan_and_score(
    scorer: Scorer, documents: Iterable[Document], protocol: Protocol, score: Callable[[list[Plan]], Sample | None]
) -> Result:
    """Plan windows, let ``score`` fill in their scores, and make rows of them, with the time each took. ``score``
    returns the sample that it scored, None for all windows."""
    began = time.perf_counter()
    kept = [document.whole() for document in documents]
    plans = plan_windows(scorer.model, kept, protocol)
    encoded = time.perf_counter()
    sample = score(plans)
    return Result(
        rows=[row_of(plan) for plan in plans],
        documents=kept,
        work=scorer.work,
        encoding_seconds=encoded - began,
        scoring_seconds=time.perf_counter() - encoded,
        sample=sample,
    )


def all_windows(plans: Sequence[Plan]) -> list[Place]:
    """The places of all windows of ``plans``, in text order."""
    return [(number, i) for number, plan in enumerate(plans) for i in range(len(plan.windows))]


def score_windows(
    scorer: Scorer,
    plans: Sequence[Plan],
    chosen: Sequence[Place],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Score the ``chosen`` windows of ``plans`` into ``plan.scores``.

    Raises:
        EvaluationError: a model that answers with the wrong number of losses, with NaN or with infinity.
    """
    windows = windows_at(plans, chosen)
    for index, scores in score_batches(scorer, windows, lambda n: place_of(plans, chosen[n]), progress):
        number, i = chosen[index]
        plans[number].scores[i] = scores


def score_batches(
    scorer: Scorer, windows: Sequence[Window], where: Where, progress: Callable[[Progress], None] | None = None
) -> Iterator[tuple[int, TokenScores]]:
    """Each window's number and scores, batch after batch; ``where`` says of a number where its window is.

    Batches are drawn as if nothing were remembered, so that a run which goes on where another was stopped computes the
    same batches, to the same digits.
    """

    def answer(batch: Sequence[int]) -> list[TokenScores]:
        return scorer.score([windows[i] for i in batch], picked(where, batch))

    reporter = None if progress is None else Reporter[TokenScores](progress, windows, lambda scores: scores.nll)
    return answer_batches(make_batches(windows, scorer.size, scorer.model), answer, reporter)


def answer_batches(
    batches: Iterable[Sequence[int]],
    answer: Callable[[Sequence[int]], Sequence[A]],
    reporter: Reporter[A] | None = None,
) -> Iterator[tuple[int, A]]:
    """Each number of each batch with its answer: the one loop over batches.

    Args:
        batches: numbers of windows to compute together; a batch is asked for when the last one is answered, since
            what did not fit the memory makes the next ones smaller.
        answer: computes the answers of a batch, in its order.
        reporter: reports progress after each batch.
    """
    for batch in batches:
        for number, one in zip(batch, answer(batch), strict=True):
            if reporter is not None:
                reporter.add(one)
            yield number, one
        if reporter is not None:
            reporter.report()


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


def windows_at(plans: Sequence[Plan], chosen: Sequence[Place]) -> list[Window]:
    """The ``chosen`` windows of ``plans``."""
    return [plans[number].windows[i] for number, i in chosen]


def place_of(plans: Sequence[Plan], place: Place) -> str:
    """Where the window ``place`` is, for a message; windows are counted from 1."""
    plan, number = plans[place[0]], place[1]
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


def row_of(plan: Plan) -> Row:
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
        nll=np.concatenate([scores.nll for scores in plan.scores]) if plan.scores else np.empty(0, np.float32),
        detail=_joined(plan.scores),
    )


def _joined(scores: Sequence[TokenScores]) -> TokenScores | None:
    """The scores of all windows as one; None where they are losses alone."""
    if not scores or scores[0].rank is None:
        return None
    columns = ([getattr(one, name) for one in scores] for name in ("nll", "rank", "entropy", "top_ids", "top_logprobs"))
    return TokenScores(*(np.concatenate(column) for column in columns))
