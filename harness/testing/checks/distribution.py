"""Checks of probabilities: that they sum to one over the vocabulary promised, and that the detail agrees with them."""

from __future__ import annotations

import math

import numpy as np

from evalgpt.core import Detail, TokenScores, Window
from evalgpt.testing.subject import CheckFailed, CheckSkipped, Losses, Subject, gap

__all__ = [
    "check_detail",
    "check_normalised",
    "check_targets",
    "check_vocabulary",
    "compare_detail",
    "distribution_contexts",
]


EDGE = 8
"""How many of the last ids are looked at one by one: where a vocabulary is cut or padded, it is there."""

NO_DISTRIBUTION = "the vocabulary is too large to score token by token, and there is no Detail(top=vocab_size)"


def check_normalised(subject: Subject) -> None:
    """After a context, the probabilities of all tokens of the vocabulary sum to one."""
    for context in distribution_contexts(subject):
        nll = _distribution(subject, context)
        total = float(np.exp(-nll).sum())
        if abs(total - 1) <= max(subject.allowed, 1e-6):
            continue
        raise CheckFailed(
            f"after {len(context)} tokens the probabilities of the {len(nll)} tokens sum to {total:.6g}, not 1: "
            f"{_diagnosis(nll, subject.allowed)}"
        )


def check_targets(subject: Subject) -> None:
    """The loss of a target is that of the same token in the distribution after the same context."""
    size = subject.model.vocab_size
    for context in distribution_contexts(subject):
        nll = subject.top(context)
        if nll is None:
            raise CheckSkipped("the model gives no Detail(top=vocab_size) to compare with")
        drawn = subject.draw(8, "targets")
        for token in dict.fromkeys([*range(max(size - EDGE, 0), size), 0, int(nll.argmin()), *drawn]):
            own = subject.last([*context, token])
            if not gap(own, float(nll[token])) <= subject.allowed:
                raise CheckFailed(
                    f"token {token} scored as a target has a loss of {own:.6g} nats, and {nll[token]:.6g} in the "
                    f"distribution after the same context: does the score come from another position, is the target "
                    f"fed, or is the vocabulary cut or clamped?"
                )


def check_vocabulary(subject: Subject) -> None:
    """Every id below ``vocab_size`` can be fed and scored, the last ones too, each as a token of its own."""
    size = subject.model.vocab_size
    last = list(range(max(size - EDGE, 0), size))
    first, target = subject.draw(2, "vocabulary")
    try:
        (nll,) = subject.nll(Window([*last, 0, first][: subject.length(EDGE + 2)], 1))
        fed = [subject.last([token, target]) for token in [*last, 0, first]]
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(
            f"ids up to vocab_size - 1 = {size - 1} must be fed and scored, and that fails ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); is vocab_size larger than the embedding?"
        ) from error
    if np.isinf([subject.last([first, token]) for token in last]).all():
        raise CheckFailed(
            f"the last {len(last)} ids have no probability at all: is the head smaller than vocab_size = {size}? Where "
            f"they are forbidden by design, expect this failure and say so"
        )
    if np.isnan(nll).any() or np.isnan(fed).any():
        raise CheckFailed(f"ids near vocab_size - 1 = {size - 1} have NaN losses; is the head smaller than vocab_size?")
    if len(last) > 1 and len(set(fed[: len(last)])) == 1 < len(set(fed)):
        raise CheckFailed(
            f"after any of the last {len(last)} ids a token has the same loss: are ids clamped, or is vocab_size "
            f"padded with rows that are all alike?"
        )


def check_detail(subject: Subject) -> None:
    """Rank, entropy and the likeliest tokens agree with the losses, and asking for them changes none."""
    ids = subject.draw(subject.length(10), "detail")
    plain = subject.nll(Window(ids, 1))[0]
    (scores,) = subject.scores([Window(ids, 1)], Detail(rank=True, entropy=True, top=min(5, subject.model.vocab_size)))
    if not gap(plain, np.asarray(scores.nll, dtype=np.float64)) <= subject.allowed:
        raise CheckFailed("asking for detail changes the losses; both must come from the same distribution")
    if scores.rank is None and scores.entropy is None and scores.top_ids is None:
        raise CheckSkipped("the model gives no detail")
    if not subject.model.equal_lengths:  # a part of the window may then have other scores
        _check_rows(subject, ids, scores)
    for context in distribution_contexts(subject):
        nll = _distribution(subject, context)
        for token in (int(nll.argmin()), *subject.draw(3, f"detail {len(context)}")):
            compare_detail(subject, context, token, nll, subject.allowed)


def _check_rows(subject: Subject, ids: list[int], scores: TokenScores) -> None:
    """Each row of the detail belongs to the token whose loss stands in that row."""
    for row, end in enumerate(range(1, len(ids))):
        window = Window(ids[: end + 1], end)
        (alone,) = subject.scores([window], Detail(rank=True, entropy=True, top=min(5, subject.model.vocab_size)))
        for name, many, one in (
            ("entropy", scores.entropy, alone.entropy),
            ("top_logprobs", scores.top_logprobs, alone.top_logprobs),
        ):
            if many is None or one is None:
                continue
            if not gap(np.asarray(many, dtype=np.float64)[row], np.asarray(one, dtype=np.float64)[0]) <= _loose(
                subject
            ):
                raise CheckFailed(
                    f"{name} of token {end} in a window of {len(ids)} is not that of the token scored by itself: is "
                    f"the detail shifted against the losses?"
                )


def _loose(subject: Subject) -> float:
    """For entropies, which sum over the vocabulary."""
    return max(10 * subject.allowed, 1e-3)


def compare_detail(subject: Subject, context: list[int], token: int, nll: Losses, allowed: float) -> None:
    """Compare rank, entropy and top of ``token`` after ``context`` with ``nll`` [V], nats, known within ``allowed``.

    Raises:
        CheckFailed: one of them is that of another distribution.
    """
    top = min(5, subject.model.vocab_size)
    window = Window([*context, token], len(context))
    (scores,) = subject.scores([window], Detail(rank=True, entropy=True, top=top))
    if scores.rank is not None:
        rank = int(np.asarray(scores.rank)[0])
        surely, perhaps = int((nll < nll[token] - allowed).sum()), int((nll < nll[token] + allowed).sum()) - 1
        if not surely <= rank <= max(perhaps, surely):
            raise CheckFailed(
                f"rank {rank} for a token to which {surely} others are preferred; rank counts the larger logits, so "
                f"that the first choice has 0"
            )
    if scores.entropy is not None:
        finite = nll[np.isfinite(nll)]
        expected, found = float((np.exp(-finite) * finite).sum()), float(np.asarray(scores.entropy)[0])
        if not abs(found - expected) <= _loose(subject):
            bits = abs(found * math.log(2) - expected) <= _loose(subject)
            unit = "it is in bits; nats are wanted" if bits else "is it taken of the distribution that is scored?"
            raise CheckFailed(f"entropy {found:.5g} for a distribution of {expected:.5g} nats: {unit}")
    if scores.top_ids is not None and scores.top_logprobs is not None:
        _check_top(np.asarray(scores.top_ids)[0], np.asarray(scores.top_logprobs)[0], nll, max(allowed, 1e-6))


def _check_top(ids: np.ndarray, logs: np.ndarray, nll: Losses, allowed: float) -> None:
    if not gap(nll[ids], -logs.astype(np.float64)) <= allowed:
        raise CheckFailed("top_logprobs are not the log-probabilities (nats) of top_ids")
    if len(set(ids.tolist())) < len(ids) or not gap(np.sort(nll)[: len(ids)], np.sort(nll[ids])) <= allowed:
        raise CheckFailed("top_ids are not the likeliest tokens")
    if (np.diff(logs) > allowed).any():
        raise CheckFailed("top_ids are not in order; the likeliest comes first")


def distribution_contexts(subject: Subject) -> list[list[int]]:
    """Contexts after which whole distributions are compared; short, so that every token may be scored."""
    lengths = dict.fromkeys((1, min(6, subject.model.context_length)))
    return [subject.draw(n, "context") for n in lengths]


def _distribution(subject: Subject, context: list[int]) -> Losses:
    nll = subject.distribution(context)
    if nll is None:
        raise CheckSkipped(NO_DISTRIBUTION)
    return nll


def _diagnosis(nll: Losses, allowed: float) -> str:
    if np.ptp(nll) == 0:
        return "all scores are alike; does the score look at the target?"
    if abs(float(np.exp2(-nll).sum()) - 1) <= max(allowed, 1e-6):
        return "with base 2 they do, so these are bits; multiply by ln 2"
    if (nll < 0).all():
        return "all losses are below zero; the loss is minus the log-probability"
    if (nll < 0).any():
        return "some probabilities are above one; is a log-softmax missing?"
    return (
        "is the target among what is fed (unshifted: its score read from logits[t], not logits[t-1]), is the softmax "
        "over a part of the vocabulary or another axis, or are there more tokens than vocab_size says?"
    )
