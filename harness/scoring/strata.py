"""The order in which a text's windows are scored: strata by what their tokens tell, and a first look late enough.

Before a model has run, the token ids tell how rare a window's words are. Its covariate is the mean loss of its scored
tokens under the text's own unigram counts, each plus one. Windows are put into strata by quantiles of it, thin ones at
both ends. The order is random within each stratum (``seed``), and the strata are interleaved so that every part of the
order has its share of each: a proportional stratified sample without replacement (Cochran 1977, Sampling Techniques,
chapter 5). The covariate may tell nothing of the model's losses; then the strata are random parts and nothing is lost.

No sample tells of a kind of window that it has not seen. The assumption is that each kind that matters makes up at
least the share ``rarest`` of the windows. The first look is where a sample has seen each such kind with probability
``1 - UNSEEN`` or more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import UsageError
from evalgpt.scoring.sequential import FIRST

__all__ = ["BOUNDARY_LEVEL", "LEVEL", "RAREST", "UNSEEN", "Design", "design", "first_look", "unigram_loss"]


LEVEL = 0.95

UNSEEN = 0.01
"""Probability, of 1 - LEVEL, that the first look has not seen the rarest kind of window."""

BOUNDARY_LEVEL = LEVEL + UNSEEN
"""Level of the sequential intervals, so that both kinds of misses together are 1 - LEVEL."""

RAREST = 0.01

QUANTILES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)

THINNEST = 16  # windows in a stratum, at least


@dataclass(frozen=True, slots=True)
class Design:
    """A random order of a text's windows.

    ``order`` has the windows' numbers, ``strata`` the stratum of each in that order; ``first`` is the number of windows
    at the first look, for kinds of window that make up at least ``rarest`` of all.
    """

    order: list[int]
    strata: NDArray[np.int64]
    first: int
    rarest: float

    @property
    def count(self) -> int:
        """Number of strata."""
        return int(self.strata.max()) + 1


def design(covariate: NDArray[np.float64], seed: int, rarest: float = RAREST) -> Design:
    """The order of windows with these covariates, shape (windows,), the same on all machines (NumPy's PCG64).

    Raises:
        UsageError: a seed below zero, or a share that is not between 0 and 1.
    """
    if seed < 0:
        raise UsageError(f"a seed is a number from 0 up, not {seed}")
    if not 0 < rarest < 1:
        raise UsageError(
            f"the rarest kind of window is a share of the windows between 0 and 1, as in 1% or 0.01, not {rarest}"
        )
    windows = len(covariate)
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(windows)
    strata = _strata(covariate)[shuffled]
    # A window's turn is its place in its stratum's random order, as a part of that stratum.
    turn = np.empty(windows)
    for number in range(int(strata.max(initial=0)) + 1):
        own = strata == number
        turn[own] = (np.arange(own.sum()) + 0.5) / own.sum()
    by_turn = np.argsort(turn, kind="stable")
    strata = strata[by_turn]
    return Design([int(k) for k in shuffled[by_turn]], strata, first_look(strata, rarest), rarest)


def first_look(strata: NDArray[np.int64], rarest: float) -> int:
    """The least number of windows that have seen a kind of share ``rarest``, wherever it is, as likely as 1 - UNSEEN.

    ``strata`` has the stratum of each window in the order of scoring. At least FIRST windows, and two of each stratum.
    """
    windows, kind = len(strata), max(1, math.ceil(rarest * len(strata) - 1e-9))
    sizes = np.bincount(strata)
    low, high = 0, windows
    while high - low > 1:
        count = (low + high) // 2
        seen = np.bincount(strata[:count], minlength=len(sizes))
        if seen.min() >= 2 and _log_unseen(sizes, seen, kind) <= math.log(UNSEEN):
            high = count
        else:
            low = count
    return max(high, min(FIRST, windows), 2)


def _log_unseen(sizes: NDArray[np.int64], seen: NDArray[np.int64], kind: int) -> float:
    """The greatest log probability, over all ways to place ``kind`` windows, that none of them is among the seen.

    With k of a stratum's N windows it is that of n draws without replacement, and each further window adds
    log((N - n - k) / (N - k)). These steps shrink with k, so that the largest ones of all strata may be taken.
    """
    steps = np.concatenate(
        [
            np.arange(left, 0, -1) / np.arange(size, size - left, -1)
            for size, left in zip(sizes, sizes - seen, strict=True)
        ]
    )
    if len(steps) < kind:
        return -math.inf
    return float(np.log(np.sort(steps)[::-1][:kind]).sum())


def _strata(covariate: NDArray[np.float64]) -> NDArray[np.int64]:
    """The stratum of each window, numbered along the covariate; equal covariates are split by their place."""
    windows = len(covariate)
    cuts, last = [0], windows
    for part in QUANTILES:
        cut = round(part * windows)
        if cut - cuts[-1] >= THINNEST and last - cut >= THINNEST:
            cuts.append(cut)
    out = np.empty(windows, np.int64)
    out[np.argsort(covariate, kind="stable")] = np.searchsorted(cuts, np.arange(windows), side="right") - 1
    return out


def unigram_loss(scored: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Mean loss in nats of each window's scored tokens, under the counts of all of them, each plus one."""
    lengths = np.array([len(ids) for ids in scored])
    if not lengths.sum():
        return np.zeros(len(scored))
    _, token, counts = np.unique(np.concatenate(list(scored)), return_inverse=True, return_counts=True)
    loss = math.log(counts.sum() + len(counts)) - np.log(counts + 1.0)
    sums = np.bincount(np.repeat(np.arange(len(scored)), lengths), loss[token], minlength=len(scored))
    return np.asarray(sums / np.maximum(lengths, 1))
