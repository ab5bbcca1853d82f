"""Checks of ``next_logits``: losses and detail are those of the model's own logits, undistorted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import GivesLogits, Window
from evalgpt.testing.checks.distribution import compare_detail, distribution_contexts
from evalgpt.testing.subject import CheckFailed, CheckSkipped, Losses, Subject, gap

__all__ = ["check_logits", "check_logits_count", "contexts"]


TEXT = "the cat sat on the mat, and the cat sat on the hat"
"""Its tokens repeat, so that a penalty on repetition shows."""


def check_logits(subject: Subject) -> None:
    """Losses, entropy, rank and top are those of the log-softmax of ``next_logits`` after the same context."""
    for context in contexts(subject):
        logits = _logits(subject, context, 1)[0]
        nll = _nll(logits)
        allowed = _allowed(subject, logits)
        order = np.argsort(nll, kind="stable")
        spread = order[np.linspace(0, len(order) - 1, 9).astype(int)].tolist()
        targets = list(dict.fromkeys([*spread, *context[-8:], *subject.draw(8, "logits")]))
        losses = subject.nll(*(Window([*context, token], len(context)) for token in targets))
        for token, found in zip(targets, losses, strict=True):
            if not gap(float(found[0]), float(nll[token])) <= allowed:
                raise CheckFailed(_difference(token, float(found[0]), float(nll[token]), len(context)))
        for token in (int(order[0]), *subject.draw(2, "logits' detail")):
            try:
                compare_detail(subject, context, token, nll, allowed)
            except CheckFailed as failed:
                raise CheckFailed(f"compared with the log-softmax of next_logits: {failed}") from None
    _check_every_token(subject)


def _check_every_token(subject: Subject) -> None:
    """Where a whole distribution can be had, each token's loss is that of its own logit: no two are swapped."""
    for context in distribution_contexts(subject):
        found = subject.distribution(context)
        if found is None:
            return
        logits = _logits(subject, context, 1)[0]
        nll = _nll(logits)
        with np.errstate(invalid="ignore"):  # two equal infinities do not differ
            apart = np.where(found == nll, 0.0, np.abs(found - nll))
        token = int(np.nan_to_num(apart, nan=np.inf).argmax())
        if not gap(float(found[token]), float(nll[token])) <= _allowed(subject, logits):
            raise CheckFailed(_difference(token, float(found[token]), float(nll[token]), len(context)))


def check_logits_count(subject: Subject) -> None:
    """``next_logits`` gives float32 [count, vocab_size], one row for each of the last ``count`` ids."""
    ids = contexts(subject)[-1]
    whole = _logits(subject, ids, len(ids))
    kept = whole.copy()
    for count in dict.fromkeys((1, min(3, len(ids)))):
        part = _logits(subject, ids, count)
        _alike(subject, whole[-count:], part, f"count={count} and count={len(ids)} give different logits")
    ends = (len(ids),) if subject.model.equal_lengths else (1, len(ids) // 2 or 1, len(ids))
    for end in dict.fromkeys(ends):  # where a loss may depend on the length, a part is no row of the whole
        alone = _logits(subject, ids[:end], 1)
        why = f"row {end - 1} of {len(ids)} is not what next_logits gives for the first {end} ids"
        _alike(subject, whole[end - 1 : end], alone, why)
    window = Window([*ids, ids[0]], 1)
    _rows_are_scored(subject, window, whole)
    _alike(subject, whole, _logits(subject, ids, len(ids)), "next_logits changes when other calls come before it")
    if not np.array_equal(kept, whole, equal_nan=True):
        raise CheckFailed("a later call changes the logits that an earlier one returned; give each call its own array")


def contexts(subject: Subject) -> list[list[int]]:
    """Contexts to compare: of one id, with ids that code may take for padding, and up to 48 ids that repeat themselves.

    The last one is the longest.
    """
    longest = min(48, subject.model.context_length, subject.longest)
    drawn = subject.draw(max(longest // 2, 1), "repeated")
    size, prefix = subject.model.vocab_size, subject.model.prefix_id
    found = [
        subject.draw(1, "one"),
        [*subject.draw(1, "before"), 0, 1, *([] if prefix is None else [prefix]), size - 1, 0],
        subject.draw(6, "few"),
        [int(i) for i in subject.encode(TEXT).ids],
        [*drawn, *drawn],
    ]
    return [ids[:longest] for ids in found if ids]


def _logits(subject: Subject, ids: list[int], count: int) -> NDArray[np.float32]:
    model = subject.model
    if not isinstance(model, GivesLogits):
        raise CheckSkipped("the model gives no logits (next_logits)")
    logits = model.next_logits(list(ids), count)
    expected = (count, model.vocab_size)
    if not isinstance(logits, np.ndarray) or logits.dtype != np.float32:
        found = logits.dtype if isinstance(logits, np.ndarray) else type(logits).__name__
        raise CheckFailed(f"next_logits returns {found}; a numpy array of float32 is wanted")
    if logits.shape != expected:
        raise CheckFailed(
            f"next_logits of {len(ids)} ids with count={count} has the shape {logits.shape}; {expected} is wanted: "
            f"[count, vocab_size]"
        )
    if np.isnan(logits).any() or np.isposinf(logits).any() or np.isneginf(logits).all(-1).any():
        raise CheckFailed(f"next_logits of {len(ids)} ids are NaN or infinite, or no token is possible")
    return logits


def _nll(logits: NDArray[np.float32]) -> Losses:
    """-log-softmax over the last axis, nats, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    nll: Losses = np.log(np.exp(wide).sum(-1, keepdims=True)) - wide
    return nll


def _allowed(subject: Subject, logits: NDArray[np.float32]) -> float:
    """The model's tolerance, and what float32 logits and losses leave of a float64 model's digits."""
    nll = _nll(logits)
    largest = sum(float(np.abs(part[np.isfinite(part)]).max(initial=1.0)) for part in (logits, nll))
    return subject.allowed + largest * float(np.finfo(np.float32).eps)


def _difference(token: int, found: float, expected: float, length: int) -> str:
    return (
        f"after {length} ids token {token} has a loss of {found:.6g} nats, and the log-softmax of next_logits gives "
        f"{expected:.6g}: is only one of them changed by a temperature, label smoothing, a mask of the top tokens, a "
        f"bias, a penalty on repetition or clipping, or do they come from different positions?"
    )


def _rows_are_scored(subject: Subject, window: Window, logits: NDArray[np.float32]) -> None:
    """In a window of many targets each loss is that of its own row."""
    (losses,) = subject.nll(window)
    targets = np.asarray(window.ids[1:])
    expected = np.take_along_axis(_nll(logits), targets[:, None], 1)[:, 0]
    for row, (found, wanted) in enumerate(zip(losses, expected, strict=True)):
        if not gap(float(found), float(wanted)) <= _allowed(subject, logits):
            raise CheckFailed(_difference(int(targets[row]), float(found), float(wanted), row + 1))


def _alike(subject: Subject, a: NDArray[np.float32], b: NDArray[np.float32], why: str) -> None:
    """Compare probabilities, not logits: a constant added to a row changes nothing that is measured."""
    apart = gap(_nll(a), _nll(b))
    if not apart <= _allowed(subject, a):
        raise CheckFailed(f"{why}: log-probabilities differ by {apart:.4g} nats")
