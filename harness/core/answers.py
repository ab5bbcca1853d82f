"""What a model answers, checked before anything is made of it: scores, encodings, decoded text, logits.

Every call of these methods goes through here. A wrong type, shape or value is refused with the model's name and the
place; what the model raises is a :class:`~evalgpt.core.guard.PluginError`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalgpt.core.capabilities import GivesLogits
from evalgpt.core.data import Detail, Encoding, TokenScores, Window
from evalgpt.core.errors import EvaluationError, UsageError
from evalgpt.core.guard import calling, described
from evalgpt.core.model import Model
from evalgpt.core.rounding import tolerance_of

__all__ = ["Where", "ask", "check_losses", "decode", "encode", "least_loss", "next_logits", "picked", "unknown"]


Where = Callable[[int], str]
"""Says of a window, by its number in the batch, where it is: ``document 'a.txt', window 3 of 9``."""

FLOAT32_ROUNDING = 1e-6
"""Nats below zero that single precision alone may give: losses are answered in it whatever the model computes in."""


def picked(where: Where, numbers: Sequence[int]) -> Where:
    """``where`` for the windows ``numbers`` alone, counted anew from 0."""
    return lambda number: where(numbers[number])


def ask(
    model: Model,
    windows: Sequence[Window],
    detail: Detail | None = None,
    where: Where | None = None,
    *,
    all_: bool = True,
) -> list[TokenScores]:
    """The scores of one batch, in the types and shapes that :class:`evalgpt.core.TokenScores` promises.

    ``all_`` refuses a model that leaves out a part of ``detail``.

    Raises:
        PluginError: the model raised. EvaluationError: it answered something else than one TokenScores for each
            window, losses of another shape or type, NaN, infinity, or a loss below zero by more than rounding.
    """

    def batch() -> str:
        first = "" if where is None else where(0)
        more = f" and {len(windows) - 1} more windows of its batch" if len(windows) > 1 else ""
        return f"{first}{more}" if first else ""

    with calling(model, "score()", batch):
        answer: Any = model.score(windows) if detail is None else model.score(windows, detail)
        scores = list(answer) if hasattr(type(answer), "__iter__") else None
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns that it was never awaited
        raise EvaluationError(f"model {model.name}: score() is async; a plain function is wanted{_in(batch())}")
    if scores is None:
        raise EvaluationError(
            f"model {model.name}: score() returned {described(answer)}; a list of TokenScores is wanted, one for each "
            f"window{_in(batch())}"
        )
    if len(scores) != len(windows):
        raise EvaluationError(f"model {model.name} answered {len(scores)} windows of {len(windows)}{_in(batch())}")
    return [
        _checked(model, window, score, detail, _in("" if where is None else where(number)), all_)
        for number, (window, score) in enumerate(zip(windows, scores, strict=True))
    ]


def _checked(model: Model, window: Window, score: object, detail: Detail | None, place: str, all_: bool) -> TokenScores:
    if not isinstance(score, TokenScores):
        raise EvaluationError(
            f"model {model.name}: score() returned {described(score)} for a window; TokenScores is wanted{place}"
        )
    expected = len(window.ids) - window.start
    given = _array(model, "losses", score.nll, "f", place)
    if given.shape != (expected,):
        raise EvaluationError(
            f"model {model.name} returned losses of shape {given.shape} for {expected} scored tokens{place}"
        )
    check_losses(model, given, place)
    nll = given.astype(np.float32)
    return TokenScores(nll) if detail is None else _detailed(model, nll, score, detail, (place, all_))


def check_losses(model: Model, nll: NDArray[Any], place: str = "") -> None:
    """Raise EvaluationError where a loss is NaN, infinite in float32, or below zero by more than rounding."""
    if np.isnan(nll).any():
        raise EvaluationError(f"model {model.name} gave NaN as a loss{place}")
    if (np.abs(nll) > np.finfo(np.float32).max).any():
        raise EvaluationError(f"model {model.name} gave an infinite loss{place}: a probability of zero")
    least = least_loss(model.dtype)
    if len(nll) and nll.min() < least:
        raise EvaluationError(
            f"model {model.name} gave a loss of {float(nll.min()):.6g} nats{place}: a negative log-likelihood is never "
            f"below 0 but for rounding ({least:g} in {model.dtype}); is its sign turned, or are these no probabilities?"
        )


def least_loss(dtype: str) -> float:
    """The lowest loss, nats, that rounding explains: a sure token's log-sum-exp minus its logit, both of which are
    rounded to ``dtype``."""
    return -max(tolerance_of(dtype), FLOAT32_ROUNDING)


def _detailed(
    model: Model, nll: NDArray[np.float32], score: TokenScores, detail: Detail, how: tuple[str, bool]
) -> TokenScores:
    """``score`` in the types that core promises; parts that were asked for and are missing are None, or refused."""
    place, all_ = how
    named_parts = {"rank": detail.rank, "entropy": detail.entropy, "top_ids": bool(detail.top)}
    named_parts["top_logprobs"] = named_parts["top_ids"]
    missing = [name for name, asked in named_parts.items() if asked and getattr(score, name) is None]
    if missing and all_:
        raise EvaluationError(f"model {model.name} answers losses alone, no ranks or entropies; run without --detail")
    n, found = len(nll), {}
    for name, asked in named_parts.items():
        if not asked or getattr(score, name) is None:
            continue
        part = _array(model, name, getattr(score, name), "iu" if name in ("rank", "top_ids") else "f", place)
        if part.shape[:1] != (n,) or part.ndim != (2 if name.startswith("top") else 1):
            raise EvaluationError(
                f"model {model.name} returned details whose shapes do not fit {n} scored tokens: {name} has "
                f"{part.shape}{place}"
            )
        found[name] = part
    ids, logs = found.get("top_ids"), found.get("top_logprobs")
    if (ids is None) != (logs is None) or (ids is not None and logs is not None and ids.shape != logs.shape):
        raise EvaluationError(
            f"model {model.name} returned details whose shapes do not fit: top_ids and top_logprobs differ{place}"
        )
    if ids is not None and ids.size and not 0 <= ids.min() <= ids.max() < model.vocab_size:
        raise EvaluationError(f"model {model.name} names a likeliest token outside its vocabulary{place}")
    if ids is not None and ids.shape[1] > detail.top:
        raise EvaluationError(
            f"model {model.name} names {ids.shape[1]} likeliest tokens where {detail.top} were asked for"
        )
    rank = found.get("rank")
    if rank is not None and rank.size and not 0 <= rank.min() <= rank.max() < model.vocab_size:
        raise EvaluationError(f"model {model.name} gave a rank outside its vocabulary{place}")
    if any(np.isnan(found[name]).any() for name in ("entropy", "top_logprobs") if name in found):
        raise EvaluationError(f"model {model.name} gave NaN as an entropy or a log-probability{place}")
    types = {"rank": np.int64, "entropy": np.float32, "top_ids": np.int64, "top_logprobs": np.float32}
    return TokenScores(nll, **{name: part.astype(types[name]) for name, part in found.items()})


def _array(model: Model, what: str, value: object, kinds: str, place: str) -> NDArray[Any]:
    """``value`` as an array whose dtype is of ``kinds``, numpy's letters."""
    if value is None:
        raise EvaluationError(f"model {model.name} returned no {what}{place}; a numpy array is wanted")
    with calling(model, f"the {what} of score(), read as a numpy array,", place.removeprefix(", in ")):
        array = np.asarray(value)
    if array.dtype.kind not in kinds and array.size:
        wanted = "float32" if kinds == "f" else "int64"
        raise EvaluationError(f"model {model.name} returned {what} of type {array.dtype}; {wanted} is wanted{place}")
    return array


def encode(model: Model, text: str, where: str) -> Encoding:
    """The tokens of ``text``, every one of them in the model's vocabulary; errors say that it is ``where``.

    Raises:
        PluginError: the tokenizer raised. EvaluationError: it returned no Encoding, ids that are not whole numbers of
            the vocabulary, or byte spans that are not one range of the text's bytes for each token, in order.
    """
    with calling(model, "encode()", where):
        encoding: Any = model.encode(text)
    if not isinstance(encoding, Encoding):
        raise EvaluationError(
            f"model {model.name}: encode() returned {described(encoding)}; an evalgpt.Encoding is wanted, in {where}"
        )
    with calling(model, "the ids of encode(), read as numbers,", where):
        ids = np.asarray(encoding.ids)
    if ids.dtype.kind == "O" and all(isinstance(i, (int, np.integer)) for i in ids.flat):
        raise EvaluationError(
            f"token id {max(ids.flat, key=abs)} in {where} is outside the vocabulary of model {model.name}, "
            f"0 to {model.vocab_size - 1}"
        )
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
        wrong = _not_an_int(encoding.ids)
        raise EvaluationError(
            f"model {model.name}: encode() gave {described(wrong)} among its ids in {where}; a sequence of whole "
            f"numbers is wanted"
        )
    if ids.size and not 0 <= ids.min() <= ids.max() < model.vocab_size:
        wrong = int(ids[(ids < 0) | (ids >= model.vocab_size)][0])
        raise EvaluationError(
            f"token id {wrong} in {where} is outside the vocabulary of model {model.name}, "
            f"0 to {model.vocab_size - 1}: the tokenizer does not belong to these weights"
        )
    _check_spans(model, text, encoding, where)
    return encoding if isinstance(encoding.ids, (list, tuple)) else Encoding(ids.tolist(), encoding.byte_spans)


def _not_an_int(ids: object) -> object:
    """The first of ``ids`` that is no whole number; ``ids`` themselves where they are no sequence."""
    try:
        return next(i for i in ids if not isinstance(i, (int, np.integer)))  # type: ignore[attr-defined]
    except (TypeError, StopIteration):
        return ids


def _check_spans(model: Model, text: str, encoding: Encoding, where: str) -> None:
    if encoding.byte_spans is None:
        return
    with calling(model, "the byte spans of encode(), read as pairs of numbers,", where):
        spans = np.asarray(encoding.byte_spans)
        count = len(encoding.byte_spans)
    if count != len(encoding.ids):
        raise EvaluationError(f"model {model.name} gave {count} byte spans for {len(encoding.ids)} tokens, in {where}")
    if not count:
        return
    if spans.shape != (count, 2) or spans.dtype.kind not in "iu":
        raise EvaluationError(
            f"model {model.name}: the byte spans of encode() are not pairs of whole numbers (start, end), in {where}"
        )
    size = len(text.encode())
    wrong = (spans[:, 0] < 0) | (spans[:, 0] > spans[:, 1]) | (spans[:, 1] > size)
    wrong[1:] |= spans[1:, 0] < spans[:-1, 0]
    if wrong.any():
        at = int(wrong.argmax())
        raise EvaluationError(
            f"model {model.name}: token {at} lies at bytes {spans[at, 0]} to {spans[at, 1]}, in {where}; byte spans go "
            f"forward within its {size} bytes, start before end"
        )


def unknown(token: int) -> str:
    """What stands for an id that is no token of the tokenizer, as ``<id 50300>``."""
    return f"<id {token}>"


def decode(model: Model, ids: Sequence[int], *, shown: bool = False) -> str:
    """The text of ``ids``, with :func:`unknown` for those in the model's ``unused_ids``.

    ``shown`` is for tokens that a model proposes and no text has: an id that the tokenizer does not know
    (``LookupError``) is then shown as such too, though the model does not say that it is unused.

    Raises:
        PluginError: the tokenizer raised. EvaluationError: it returned something else than a text.
    """
    unused = model.unused_ids
    if not unused or not any(i in unused for i in ids):
        return _decoded(model, ids, shown)
    pieces: list[str] = []
    run: list[int] = []
    for i in ids:
        if i not in unused:
            run.append(i)
            continue
        pieces += [_decoded(model, run, shown)] * bool(run) + [unknown(i)]
        run = []
    return "".join(pieces + [_decoded(model, run, shown)] * bool(run))


def _decoded(model: Model, ids: Sequence[int], shown: bool) -> str:
    try:
        with calling(model, f"decode() of the ids {_few(ids)}"):
            text: Any = model.decode(ids)
    except EvaluationError as error:
        if shown and isinstance(error.__cause__, LookupError) and len(ids) == 1:
            return unknown(ids[0])
        raise
    if not isinstance(text, str):
        raise EvaluationError(
            f"model {model.name}: decode() returned {described(text)} for the ids {_few(ids)}; a text is wanted"
        )
    return text


def _few(ids: Sequence[int]) -> str:
    return ", ".join(str(i) for i in ids[:5]) + ", ..." * (len(ids) > 5)


def next_logits(model: Model, ids: Sequence[int], count: int = 1) -> NDArray[np.float32]:
    """Logits [count, vocab_size] behind each of the last ``count`` of ``ids``, at least one of each row a number.

    Raises:
        PluginError: the model raised. EvaluationError: another shape or type, NaN, or no number in a row.
    """
    if not isinstance(model, GivesLogits):
        raise UsageError(f"model {model.name} gives no logits, only losses: it cannot generate text")
    where = f"logits after {len(ids)} tokens"
    with calling(model, "next_logits()", where):
        logits = np.asarray(model.next_logits(ids, count))
    if logits.dtype.kind != "f":
        raise EvaluationError(f"model {model.name} gave logits of type {logits.dtype}; float32 is wanted")
    if logits.shape != (count, model.vocab_size):
        raise EvaluationError(
            f"model {model.name} gave logits of shape {logits.shape}, not ({count}, {model.vocab_size})"
        )
    wide: NDArray[np.float32] = logits.astype(np.float32)
    if np.isnan(wide).any() or not np.isfinite(wide.max(1)).all():
        raise EvaluationError(f"model {model.name} gave logits that are no numbers after {len(ids)} tokens")
    return wide


def _in(place: str) -> str:
    return f", in {place}" if place and not place.startswith(", in ") else place
