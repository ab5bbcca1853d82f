"""Checks of ``Model.score``: that a loss belongs to its token, and to what stands before it alone."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Window
from evalgpt.testing.subject import CheckFailed, CheckSkipped, Losses, Subject, gap

__all__ = [
    "check_batch_order",
    "check_causality",
    "check_context_limit",
    "check_long_window",
    "check_losses",
    "check_padding",
    "check_prefix_not_added",
    "check_repeatable",
    "check_shift",
    "check_start",
]


TRIALS = 8

AGAIN = 20
"""Times that one window is scored: what goes wrong in one call of ten shows then."""

NOTHING = 1e-3
"""The share of another effect below which there is none. What rounds coarsely still shows the effects there are."""

SPOTS = 600
"""How long a window is looked at token by token; longer ones, at their end alone."""

MANY = (17, 33, 40, 67, 130)
"""Windows in large batches: a little more than the sizes at which batches are split."""

SENSITIVE = 10
"""By how much more than others rounding may move the losses of some windows. Of 260 losses that SmolLM2 gives to random
ids in float32, the middle one lies 5e-6 nats from float64, the farthest 2.8e-4."""

ENOUGH = 8
"""Different losses that are all short numbers by rounding, not by chance."""


def check_losses(subject: Subject) -> None:
    """Losses are one float32 per scored token, never NaN, never below zero, and not all one average."""
    ids = subject.draw(subject.length(24), "losses")
    (scores,) = subject.scores([Window(ids, 1)])
    nll = scores.nll
    if not isinstance(nll, np.ndarray):
        raise CheckFailed(f"nll is a {type(nll).__name__}; a numpy array is wanted")
    if nll.dtype != np.float32:
        raise CheckFailed(f"nll is {nll.dtype}; float32 is wanted")
    if np.isnan(nll).any():
        raise CheckFailed("some losses are NaN; is a softmax taken over a row that is masked whole?")
    if (nll < -subject.allowed).all():
        raise CheckFailed("all losses are below zero: these are log-probabilities; the loss is minus that")
    if (nll < -subject.allowed).any():
        raise CheckFailed(f"the smallest loss is {nll.min():.4g}, a probability above one; is it normalised?")
    if subject.model.dtype in ("float32", "float64") and len(set(nll.tolist())) > ENOUGH and _coarse(nll):
        raise CheckFailed(
            f"dtype says {subject.model.dtype}, and every loss is a number of half precision or of four decimals: "
            f"take the log-softmax in float32, and do not round"
        )


def _coarse(nll: NDArray[np.float32]) -> bool:
    """Whether no loss has more digits than half precision, or than four decimals."""
    with np.errstate(over="ignore"):
        half = (nll == nll.astype(np.float16).astype(np.float32)).all()
    brain = (nll.view(np.uint32) & 0xFFFF == 0).all()
    return bool(half or brain or (nll == np.round(nll, 4)).all())


def check_shift(subject: Subject) -> None:
    """A score belongs to the token after the one read last: it follows the target's id and the token before it."""
    length = subject.length(7)
    targets, before, contexts = [], [], []
    for trial in range(TRIALS):
        ids, others = (subject.draw(length, f"shift {trial} {k}") for k in "ab")
        own = subject.last(ids)
        targets.append(gap(own, subject.last([*ids[:-1], subject.another(ids[-1])])))
        before.append(gap(own, subject.last([*ids[:-2], subject.another(ids[-2]), ids[-1]])))
        contexts.append(gap(own, subject.last([*others[:-1], ids[-1]])))
    if max(targets) == max(contexts) == 0:
        raise CheckSkipped("every token has the same score, so nothing shows which one a score belongs to")
    if max(targets) <= NOTHING * max(contexts):
        raise CheckFailed(
            "changing the last id of a window does not change its score: the loss of ids[t] must be that of ids[t] "
            "after ids[:t]; are logits and targets unshifted (logits[t] with ids[t])?"
        )
    if not max(contexts):
        raise CheckSkipped("the model reads no context, so nothing shows which token it read last")
    if max(before) <= NOTHING * max(contexts):
        raise CheckFailed(
            "changing the token right before a target does not change the target's score, though other context does: "
            "the logits used are not those after ids[t-1]; are they shifted twice?"
        )


def check_causality(subject: Subject) -> None:
    """A token's loss stays as it is when the token and all that follow are not fed."""
    ids = subject.draw(subject.length(12), "causality")
    (whole,) = subject.nll(Window(ids, 1))
    for end in range(1, len(ids)):
        apart = gap(float(whole[end - 1]), _without_rest(subject, ids, end))
        if not apart <= subject.allowed:
            raise CheckFailed(
                f"the loss of token {end} of {len(ids)} changes by {apart:.4g} nats when it and what follows are not "
                f"fed: it has seen its answer. Is the attention mask missing or off by one, or are the targets shifted "
                f"the wrong way?"
            )


def check_long_window(subject: Subject) -> None:
    """In a long window too, each token's loss is the one it has when nothing follows."""
    ids = subject.draw(subject.length(SPOTS), "long")
    (whole,) = subject.nll(Window(ids, 1))
    powers = [1 << k for k in range(4, 10)]
    spots = {at + side for at in [*powers, len(ids) // 2] for side in (-1, 0, 1)} | {1, len(ids) - 2, len(ids) - 1}
    for end in sorted(at for at in spots if 1 <= at < len(ids)):
        apart = gap(float(whole[end - 1]), _without_rest(subject, ids, end))
        if not apart <= subject.allowed:
            raise CheckFailed(
                f"in a window of {len(ids)} ids the loss of token {end} is {apart:.4g} nats from the one it has when "
                f"nothing follows: is the window scored in pieces that are put together wrongly, or cut?"
            )
    (half,) = subject.nll(Window(ids, max(len(ids) // 2, 1)))
    if not gap(whole[len(whole) - len(half) :], half) <= subject.allowed:
        raise CheckFailed(f"a window of {len(ids)} ids has other losses when it is scored from its middle on")


def _without_rest(subject: Subject, ids: list[int], end: int) -> float:
    """The loss of ``ids[end]`` when what follows is not fed; is another, where losses may depend on the length."""
    if not subject.model.equal_lengths:
        return subject.last(ids[: end + 1])
    changed = [*ids[: end + 1], *(subject.another(token) for token in ids[end + 1 :])]
    return float(subject.nll(Window(changed, end))[0][0])


def check_start(subject: Subject) -> None:
    """Scoring a window from a later token gives the same losses for that token and the rest."""
    ids = subject.draw(subject.length(12), "start")
    (whole,) = subject.nll(Window(ids, 1))
    for start in range(2, len(ids)):
        (part,) = subject.nll(Window(ids, start))
        if not gap(whole[start - 1 :], part) <= subject.allowed:
            raise CheckFailed(
                f"scored from {start}, the losses differ by {gap(whole[start - 1 :], part):.4g} nats from the same "
                f"tokens' losses scored from 1: ids[start:] are the tokens to score, ids[:-1] what is fed"
            )


def check_batch_order(subject: Subject) -> None:
    """Windows of one length, scored together, are answered in the order given."""
    windows = [Window(subject.draw(subject.length(8), f"order {k}"), 1) for k in range(5)]
    alone = [subject.nll(window)[0] for window in windows]
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1)):
        together = subject.nll(*(windows[k] for k in order))
        _compare(subject, [alone[k] for k in order], together, "equally long windows", "are answers in another order?")
    many = [Window(subject.draw(subject.length(3), f"many {k}"), 1) for k in range(max(MANY))]
    alone = [subject.nll(window)[0] for window in many[: MANY[0]]]
    alone += [nll for k in range(MANY[0], len(many), 5) for nll in subject.nll(*many[k : k + 5])]
    for size in MANY:
        why = "is a large batch cut, or put together wrongly?"
        _compare(subject, alone[:size], subject.nll(*many[:size]), f"{size - 1} others", why)
    _check_repeats(subject)


def _check_repeats(subject: Subject) -> None:
    """Equal windows in one batch, and windows of equal ids scored from different tokens."""
    one, other = (subject.draw(subject.length(6), f"repeats {k}") for k in "ab")
    windows = [Window(one, 1), Window(other, 1), Window(one, 1), Window(one, len(one) - 1), Window(other, 1)]
    windows += [Window(other[:-1] if len(other) > 2 else other, 1), Window(one, 1)]
    if subject.model.equal_lengths:
        windows = [window for window in windows if len(window.ids) == len(one)]
    alone = [subject.nll(window)[0] for window in windows]
    together = subject.nll(*windows)
    shapes = [nll.shape for nll in together] == [nll.shape for nll in alone]
    if not shapes or max(gap(a, b) for a, b in zip(alone, together, strict=True)) > subject.allowed:
        raise CheckFailed(
            "where a batch holds a window twice, losses differ from those scored alone: are equal windows scored once, "
            "and the answers given back to the wrong ones?"
        )


def check_padding(subject: Subject) -> None:
    """A window's losses do not depend on the longer and shorter windows it is batched with."""
    if subject.model.equal_lengths:
        raise CheckSkipped("equal_lengths: windows of different lengths do not come in one batch")
    longest = subject.length(21)
    lengths = [n for n in (5, longest, 2, 13, 3, longest - 1) if 2 <= n <= longest]
    windows = [Window(subject.draw(n, f"padding {k}"), 1) for k, n in enumerate(lengths)]
    windows += [Window(subject.draw(n, f"late {k}"), n - 1) for k, n in enumerate(lengths)]
    alone = [subject.nll(window)[0] for window in windows]
    why = (
        "is padding attended to or scored, do position ids count it, or are answers in the order of lengths? Right "
        "padding needs no mask in a causal model"
    )
    _compare(subject, alone, subject.nll(*windows), "windows of other lengths", why)


def check_repeatable(subject: Subject) -> None:
    """The same window has the same losses each time."""
    window = Window(subject.draw(subject.length(16), "repeatable"), 1)
    first, *others = (subject.nll(window)[0] for _ in range(AGAIN))
    worst = max(gap(first, other) for other in others)
    if not worst <= subject.allowed:
        raise CheckFailed(
            f"the same window scored again differs by {worst:.4g} nats: is the model in training mode (dropout), or "
            f"something drawn while it scores? Call eval(). Scores that differ by themselves fail most of the other "
            f"checks; fix this first"
        )


def check_prefix_not_added(subject: Subject) -> None:
    """The model is fed what the window holds: no BOS of its own in front."""
    prefix = subject.model.prefix_id
    if prefix is None:
        raise CheckSkipped("the model has no prefix token")
    if subject.model.context_length < 2:
        raise CheckSkipped("the model reads one token at a time")
    added, read = [], []
    for trial in range(TRIALS // 2):
        first, second, other = subject.draw(3, f"prefix {trial}")
        bare = subject.last([first, second])
        added.append(gap(bare, subject.last([prefix, first, second])))
        read.append(gap(bare, subject.last([other, first, second])))
    if max(added) <= NOTHING * max(read) and max(read) > 0:
        raise CheckFailed(
            f"a window scores the same with and without token {prefix} (prefix_id) in front, though another token in "
            f"front matters: score() adds it by itself. The protocol puts it there where it belongs; add none"
        )


def check_context_limit(subject: Subject) -> None:
    """``context_length`` tokens can be fed at once, and the first of them is read."""
    size = subject.model.context_length
    if size > subject.longest:
        raise CheckSkipped(f"context_length is {size}; a window of that size is tried with --longest {size} (longest=)")
    ids = subject.draw(size + 1, "limit")
    try:
        whole = _tail(subject, ids)
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(
            f"a window that feeds context_length = {size} tokens fails ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); is context_length overstated, a token added to each window, or "
            f"the last id fed as well? ids[:-1] are fed, so a window holds up to context_length + 1 ids"
        ) from error
    equal = subject.model.equal_lengths  # a loss may then depend on the length
    if size >= 3 and not equal and not gap(whole[:-1], _tail(subject, ids[:-1])[1:]) <= subject.allowed:
        raise CheckFailed(
            f"with context_length = {size} tokens fed, a token's loss is another than when one token less is fed: "
            f"is the input cut there, or a token added to each window that then pushes out another?"
        )
    if np.isnan(whole).any():
        raise CheckFailed(
            f"a window that feeds context_length = {size} tokens has NaN losses; is the limit overstated?"
        )
    if size < 4 or _reach(subject, ids, whole, 0) > 0:
        return
    first = _first_read(subject, ids, whole)
    if first is None:
        raise CheckSkipped("the model reads too little context to show how much of it")
    if size - first <= MARKOV:
        raise CheckSkipped(
            f"of {size} tokens the model reads only the last {size - first}; should it read more, look at what is fed"
        )
    strength = _reach(subject, ids, whole, first)
    if strength > subject.allowed:  # else its memory fades, and what is zero is what rounding left of it
        raise CheckFailed(
            f"of {size} tokens that context_length allows, only the last {size - first} are read: changing those "
            f"before changes nothing, changing the first of them a loss by {strength:.2g} nats. Are inputs cut to the "
            f"model's true limit? Where an attention window does it by design, expect this failure and say so"
        )


MARKOV = 4
"""Tokens of context up to which a model is taken for one that is meant to read no more."""


def _tail(subject: Subject, ids: list[int]) -> Losses:
    """The losses of the last two targets."""
    return subject.nll(Window(ids, max(len(ids) - 2, 1)))[0]


def _reach(subject: Subject, ids: list[int], whole: Losses, position: int) -> float:
    """By how much the last losses change when four tokens from ``position`` on are others, but not the last two."""
    changed = list(ids)
    for at in range(position, min(position + 4, len(ids) - 2)):
        changed[at] = subject.another(ids[at])
    return gap(whole, _tail(subject, changed))


def _first_read(subject: Subject, ids: list[int], whole: Losses) -> int | None:
    """The first position where a change still shows at the end, by bisection; None if none does."""
    unread, read = 0, len(ids) - 6
    if read <= unread or _reach(subject, ids, whole, read) == 0:
        return None
    while read - unread > 1:
        middle = (unread + read) // 2
        if _reach(subject, ids, whole, middle) > 0:
            read = middle
        else:
            unread = middle
    return read + 3  # of the four that change, the last alone is surely read


def _compare(subject: Subject, alone: list[Losses], together: list[Losses], others: str, why: str) -> None:
    """Most windows agree to rounding, and none is further off than rounding takes the most sensitive ones.

    A batch that is put together wrongly gives some windows the losses of others; one that is computed less precisely
    moves all of them.
    """
    gaps = [gap(a, b) for a, b in zip(alone, together, strict=True)]
    if np.median(gaps) <= subject.allowed and max(gaps) <= SENSITIVE * subject.allowed:
        return
    mixed = [
        (i, k)
        for (i, a), (k, b) in itertools.product(enumerate(alone), enumerate(together))
        if i != k and a.shape == b.shape and gap(a, b) <= subject.allowed
    ]
    if mixed:
        why = f"the losses of window {mixed[0][0]} came back as those of window {mixed[0][1]}; restore the order given"
    raise CheckFailed(f"batched with {others}, losses differ by {max(gaps):.4g} nats from those scored alone: {why}")
