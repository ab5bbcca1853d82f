"""The check that a window's losses do not depend on the longest window of its batch, or of all batches before."""

from __future__ import annotations

import numpy as np

from evalgpt.core import Window
from evalgpt.testing.subject import CheckFailed, CheckSkipped, Losses, Subject, gap

__all__ = ["check_lengths"]


SHORT = (5, 17)
"""Ids of the windows whose losses are looked at beside longer ones."""

LEAST = 32
"""Tokens of the first longer window; each next one has twice as many, up to what may be tried."""


def check_lengths(subject: Subject) -> None:
    """A short window's losses stay as they are beside a long window, and after one, up to the context length.

    Positions may be scaled where a text is longer than some number that the model was trained with, so lengths grow by
    doubling. It runs before the checks that feed long windows: what is kept of those would no longer change.
    """
    sizes = _sizes(min(subject.model.context_length, subject.longest))
    if not sizes:
        raise CheckSkipped(f"the model is fed at most {subject.model.context_length} tokens at once")
    short = [Window(subject.draw(n, f"short {n}"), 1) for n in SHORT if n - 1 < sizes[0]]
    alone = [subject.nll(window)[0] for window in short]
    for size in sizes:
        ids = subject.draw(size + 1, "beside")
        long = Window(ids, max(size - 1, 1))
        own = _fed(subject, long)
        after = [subject.nll(window)[0] for window in short]
        _compare(
            subject,
            alone,
            after,
            f"after a window of {size} tokens was scored, the losses of one of %d change by %.4g nats: is something "
            f"kept of the longest text so far, as scaled positions or a mask? Set it anew for each batch",
        )
        if subject.model.equal_lengths:  # evalgpt gives it windows of one length at a time
            continue
        *beside, again = subject.nll(*short, long)
        _compare(
            subject,
            [*alone, own],
            [*beside, again],
            f"in a batch with a window of {size} tokens, the losses of one of %d change by %.4g nats: is padding "
            f"attended to, or are positions scaled by the longest row of the batch? Then set equal_lengths, and only "
            f"windows of one length come together",
        )


def _fed(subject: Subject, window: Window) -> Losses:
    """The losses of a window that ``context_length`` allows."""
    try:
        return subject.nll(window)[0]
    except CheckFailed:
        raise
    except Exception as error:
        limit, told = subject.model.context_length, " ".join(str(error).split())[:200]
        raise CheckFailed(
            f"a window that feeds {len(window.ids) - 1} tokens fails, and context_length allows {limit} "
            f"({type(error).__name__}: {told}); is it overstated?"
        ) from error


def _sizes(limit: int) -> list[int]:
    """Tokens to feed: doubling from ``LEAST`` up to ``limit``, and ``limit`` itself."""
    if limit < 2:
        return []
    sizes = [LEAST << k for k in range(limit.bit_length()) if LEAST << k < limit]
    return [*sizes, limit]


def _compare(subject: Subject, before: list[Losses], now: list[Losses], message: str) -> None:
    for a, b in zip(before, now, strict=True):
        if not gap(a, b) <= subject.allowed:
            raise CheckFailed(message % (len(np.atleast_1d(a)), gap(a, b)))
