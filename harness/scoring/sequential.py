"""A text's loss, or a difference of two models, from some of its windows in random order, with intervals one may watch.

The unit is a window: its sum of losses (or of differences) and its weight (tokens, or bytes). The target is the ratio
of sums over all windows of the text, the number that a full run gives: it says nothing of other texts, which is what
``evalgpt.report.statistics`` is for. Losses are correlated within a window and along the text; in random order windows
are a sample without replacement, so that neither matters. ``bench/stopping.py`` measures coverage and the windows
needed.

The method is group-sequential. In units of its standard error, with the finite-population correction, the error after
n of N windows behaves as Brownian motion W(u) / sqrt(u) at u = n / (N - n): partial sums without replacement are a
Brownian bridge (Rosen 1964, Arkiv foer Matematik 5, 383-424), and W(u) = (1 + u) bridge(u / (1 + u)). Looks are at
numbers of windows that grow geometrically in u. The probability of ever missing, 1 - level, is spent over them as Lan
and DeMets propose (1983, doi:10.1093/biomet/70.3.659); critical values come from the recursive integration of
Armitage, McPherson and Rowe (1969, JRSS A 132, 235-244), and their tail probabilities are turned into Student's t
(Jennison and Turnbull 2000, Group Sequential Methods). All looks' intervals hold together with probability ``level``.

Betting and empirical-Bernstein sequences need bounded losses, which these are not. Asymptotic confidence sequences
(Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021, arXiv:2103.06476) allow a look after each window and are wider.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evalgpt.report.statistics import t_half_width

__all__ = ["Interval", "Sequential", "decided", "half_width", "order", "precise_enough"]


FIRST = 16  # windows at the first look

LAST = 0.95  # part of the windows after which the only look left is at all of them

DECIDE_STEP, PRECISION_STEP = 1.5, 1.1  # growth of u: looks cost little where the last gets nearly all probability

# The first k of K looks for a sign spend (k / K) ** POWER: less early, where skewed samples mislead most.
POWER = 1.5

# Part of the probability that looks before the last may spend where the width alone says when to stop.
EARLY = 0.2

# Standard errors by which the skewness may exceed the sample's, too small where rare values are missing.
SKEW_ERRORS = 2.0

# Windows as extreme as the most extreme seen, added to the sample before its variance and skewness are estimated.
PSEUDO = 1

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


@dataclass(frozen=True, slots=True)
class Interval:
    """The whole text's ratio, in its unit, as known at a look after ``windows`` windows.

    Bounds are infinite before the first look and where values are not finite, and the estimate after all windows.
    """

    estimate: float
    low: float
    high: float
    windows: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look needs of the windows seen: the ratio, and how the errors of its strata add up.

    ``spread`` and ``parts`` have one number a stratum: the residuals' variance, and how often it counts. ``extreme``
    is the residual that is farthest from its stratum's mean.
    """

    value: float
    spread: NDArray[np.float64]
    parts: NDArray[np.float64]
    extreme: float
    seen: int
    size: float
    freedom: float
    skew: tuple[float, float]

    @staticmethod
    def of(
        y: NDArray[np.float64], n: NDArray[np.float64], stratum: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> _Seen | None:
        """None where a stratum has fewer than two windows, nothing has weight, or a value is not finite.

        The ratio is the combined one of a stratified sample (Cochran 1977, Sampling Techniques, section 6.11): each
        window stands for N / n windows of its stratum. Its error is, in Royall's way for a ratio of sums (1970,
        doi:10.1093/biomet/57.2.377), the unseen windows' residuals less the seen ones' scaled up to their weight.
        Squared residuals are over 1 - share, as in ``evalgpt.report.statistics``, for the fitted mean.
        """
        counts = np.bincount(stratum, minlength=len(sizes))
        if counts.min() < 2 or not np.isfinite(y).all():
            return None
        each = (sizes / counts)[stratum]
        weight, total = float(each @ n), np.bincount(stratum, n)
        if not total.all():
            return None
        value = float(each @ y) / weight
        residual, share = y - value * n, n / total[stratum]
        residual -= (np.bincount(stratum, residual) / counts)[stratum]
        spread = np.bincount(stratum, residual**2 / np.maximum(1 - share, 1e-12)) / counts
        scale = sizes / counts - 1
        parts = counts * scale**2 + (sizes - counts)
        error = spread * parts
        sizes_seen = 1 / np.bincount(stratum, share**2)
        doubt = float((error**2 / np.maximum(sizes_seen - 1, 1e-9)).sum())
        extreme = float(residual[np.abs(residual).argmax()])
        return _Seen(
            value=value,
            spread=spread,
            parts=parts,
            extreme=extreme,
            seen=len(y),
            size=weight**2 / float((each * n) @ (each * n)),
            freedom=float(error.sum()) ** 2 / doubt if doubt else math.inf,
            skew=_skewness(np.append(residual, [extreme] * PSEUDO)),
        )

    def error(self, weight: float) -> float:
        """Standard error of the ratio, of windows with ``weight`` in all."""
        more = PSEUDO * self.extreme**2 * float(self.parts.sum()) / self.seen
        return math.sqrt(float(self.spread @ self.parts) + more) / weight


class Sequential:
    """The ratio sum(y) / sum(n) over all windows of a text, from windows added in random order.

    Args:
        windows: N, of the whole text.
        weight: sum(n) over the whole text.
        level: probability that the intervals of all looks hold.
        target: the half-width at which one will stop, in the ratio's unit. None: one stops by the interval's position.
        first: windows at the first look; ``evalgpt.scoring.strata`` says how many a rare kind of window needs.
        strata: the stratum, 0 and up, of each window in the order in which they are added, where every part of the
            order has its share of each stratum. None: one stratum. A look that has seen fewer than two windows of a
            stratum gives infinite bounds.

    Without ``target`` the spending is over looks, whatever the data: a difference may be settled at any of them.
    With it the width alone says when to stop, so that the spending can follow the information, 1 / variance, as a
    fraction of what the target needs (Mehta and Tsiatis 2001, Drug Information Journal 35, 1095-1112), by Lan and
    DeMets' O'Brien-Fleming-like function: little is spent early, and all that is left at the look that reaches the
    target, whose interval then stays until all windows are seen.

    Raises:
        ValueError: a count, weight or target that is not positive, a level outside (0, 1), or ``first`` below 2.
    """

    def __init__(
        self,
        windows: int,
        weight: float,
        level: float = 0.95,
        target: float | None = None,
        first: int = FIRST,
        strata: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> None:
        positive = windows >= 1 and 0 < weight < math.inf and (target is None or target > 0)
        if not positive or not 0 < level < 1 or first < 2:
            raise ValueError(f"no intervals: {windows=}, {weight=}, {level=}, {target=}, {first=}")
        self._stratum = np.zeros(windows, np.int64) if strata is None else np.asarray(strata, dtype=np.int64)
        if self._stratum.shape != (windows,):
            raise ValueError(f"no intervals: strata of {len(self._stratum)} windows, not {windows}")
        self._sizes = np.bincount(self._stratum)
        self._windows, self._weight, self._alpha, self._target = windows, float(weight), 1 - level, target
        self._y, self._n, self._count = np.empty(windows), np.empty(windows), 0
        self._looks = _schedule(windows, DECIDE_STEP if target is None else PRECISION_STEP, first)
        self._next, self._first, self._exits = 0, first, _Exits()
        self._latest = Interval(math.nan, -math.inf, math.inf, 0)

    @property
    def next_look(self) -> int:
        """The number of windows at the next look."""
        return self._looks[min(self._next, len(self._looks) - 1)]

    def add(self, y: float, n: float) -> bool:
        """Add the next window of the random order; True if this was a look, so that ``interval()`` is new.

        Raises:
            ValueError: a negative weight, more windows than the text has, or another weight than it has.
        """
        return self.extend(np.array([y], dtype=np.float64), np.array([n], dtype=np.float64))

    def extend(self, y: NDArray[np.float64], n: NDArray[np.float64]) -> bool:
        """Add the next windows, at most as many as ``next_look`` needs; otherwise as ``add``."""
        bad = ~((n >= 0) & (n < math.inf))
        if bad.any() or self._count + len(y) > self.next_look:
            at = int(bad.argmax()) if bad.any() else 0
            raise ValueError(f"window {self._count + at + 1} of {self._windows} has weight {n[at]}")
        self._y[self._count : self._count + len(y)] = y
        self._n[self._count : self._count + len(y)] = n
        self._count += len(y)
        if self._count < self.next_look:
            return False
        self._look()
        return True

    def interval(self) -> Interval:
        """The interval of the latest look."""
        return self._latest

    def _look(self) -> None:
        self._next += 1
        count = self._count
        y, n = self._y[:count], self._n[:count]
        if count == self._windows:
            # Correctly rounded sums, so that the last number does not depend on the order.
            seen = math.fsum(n)
            value = math.fsum(y) / seen if seen and np.isfinite(y).all() else float(y.sum())
            if not math.isclose(seen, self._weight, rel_tol=1e-9):
                raise ValueError(f"the windows weigh {seen} together, not {self._weight}")
            self._latest = Interval(value, value, value, count)
            return
        found = _Seen.of(y, n, self._stratum[:count], self._sizes)
        if found is None:
            self._latest = Interval(float(y.sum()), -math.inf, math.inf, count)
            return
        error = found.error(self._weight)
        critical = self._critical(error, found)
        if critical is not None:
            down, up = self._sides(critical, found)
            self._latest = Interval(found.value, found.value - down * error, found.value + up * error, count)

    def _critical(self, error: float, found: _Seen) -> float | None:
        """The critical value at a look, on the scale of a normal deviate, or None where the look spends nothing."""
        if self._target is None:
            return _even(self._windows, self._first, self._alpha)[self._next - 1]
        u, spent = self._count / (self._windows - self._count), self._exits.spent
        if spent >= self._alpha or error > self._target:
            return None
        reached = error * self._sides(self._exits.critical(u, self._alpha), found)[0]
        if reached <= self._target:
            return self._exits.step(u, self._alpha)
        root = self._target / reached  # of the information as a fraction of what the target needs
        spend = EARLY * 2 * math.erfc(-NormalDist().inv_cdf(self._alpha / 4) / math.sqrt(2) / root)
        return self._exits.step(u, spend) if spend > spent + 1e-7 else None

    def _sides(self, critical: float, found: _Seen) -> tuple[float, float]:
        """Standard errors below and above the estimate: Student's t, widened for skewness; equal with a target.

        A sample without its rare large values has too small a mean and too small an error at once. Cornish and
        Fisher's quantile of a studentised mean (Hall 1992, The Bootstrap and Edgeworth Expansion, chapter 2), here for
        a part f of a finite population: mean -a (1 - f) / 2, third cumulant -a (2 - f), a the skewness over
        sqrt(size (1 - f)). ``size`` is the effective number of windows, 1 over the sum of their squared shares.
        """
        f, skew = self._count / self._windows, found.skew
        t = t_half_width(1 - math.erfc(critical / math.sqrt(2)), max(found.freedom, 1.0))
        per = ((1 - f) / 2 + (2 - f) * (critical**2 - 1) / 6) / math.sqrt(found.size * (1 - f))
        down, up = t + max(0.0, per * skew[0]), t + max(0.0, per * skew[1])
        return (down, up) if self._target is None else (max(down, up), max(down, up))


def half_width(precision: float) -> float:
    """The h in nats at which exp(loss - h) to exp(loss + h) is twice ``precision`` perplexities wide."""
    return math.asinh(precision)


def precise_enough(interval: Interval, precision: float) -> bool:
    """Whether the perplexity is known to ``precision``, as in ``half_width``; ``interval`` in nats per token."""
    up, down = interval.high - interval.estimate, interval.estimate - interval.low
    return up < 700 and math.exp(up) - math.exp(-down) <= 2 * precision * (1 + 1e-9)


def decided(interval: Interval) -> int:
    """The sign of a difference where its interval leaves out 0, else 0. It is 0 after all windows for equal models."""
    return int(interval.low > 0) - int(interval.high < 0)


def order(windows: int, seed: int) -> list[int]:
    """The windows' numbers in random order: NumPy's PCG64, the same on all machines."""
    return [int(k) for k in np.random.Generator(np.random.PCG64(seed)).permutation(windows)]


@functools.lru_cache(maxsize=64)
def _schedule(windows: int, step: float, first: int) -> tuple[int, ...]:
    """Numbers of windows at which to look, the last all ``windows``; n / (windows - n) grows by ``step`` or more."""
    out, count = [], first
    while count < LAST * windows:
        out.append(count)
        u = step * count / (windows - count)
        count = max(count + 1, math.ceil(windows * u / (1 + u) - 1e-9))
    return (*out, windows)


class _Exits:
    """Brownian motion that has not left the intervals of the looks so far: its density at the latest look."""

    def __init__(self) -> None:
        self.spent, self._u = 0.0, 0.0
        self._at, self._mass = np.zeros(1), np.ones(1)

    def critical(self, u: float, spend: float) -> float:
        """The c with P(leaving at or before u) = ``spend`` where the interval at u is |W(u)| <= c sqrt(u)."""
        wanted = (spend - self.spent) / 2
        root, sigma = math.sqrt(u), math.sqrt(u - self._u)
        # Newton on the tail's logarithm, concave: from above the root (earlier looks forgotten) steps stay above it.
        c = -NormalDist().inv_cdf(wanted)
        for _ in range(60):
            z = (c * root - self._at) / sigma
            tail = float(self._mass @ [math.erfc(x) for x in (z / math.sqrt(2)).tolist()]) / 2
            slope = float(self._mass @ np.exp(-z * z / 2)) * root / sigma / math.sqrt(2 * math.pi)
            step = tail / slope * math.log(tail / wanted)
            c += step
            if abs(step) < 1e-9:
                break
        return c

    def step(self, u: float, spend: float) -> float:
        """Look at ``u``: ``critical``, and from now on the motion has not left that interval either."""
        c = self.critical(u, spend)
        at, gap = c * math.sqrt(u) * _NODES, u - self._u
        density = np.exp(-((at[:, None] - self._at) ** 2) / (2 * gap)) @ self._mass / math.sqrt(2 * math.pi * gap)
        self._mass = c * math.sqrt(u) * _WEIGHTS * density
        self._at, self._u, self.spent = at, u, spend
        return c


@functools.lru_cache(maxsize=64)
def _even(windows: int, first: int, alpha: float) -> tuple[float, ...]:
    """Critical values of all looks but the last, whatever the data."""
    counts, exits = _schedule(windows, DECIDE_STEP, first)[:-1], _Exits()
    return tuple(exits.step(n / (windows - n), alpha * (k / len(counts)) ** POWER) for k, n in enumerate(counts, 1))


def _skewness(x: NDArray[np.float64]) -> tuple[float, float]:
    """How far the values may be skewed downwards and upwards: the sample's skewness, give or take its error."""
    n, x = len(x), x - x.mean()
    if n < 3 or not x.any():
        return 0.0, 0.0
    x /= np.abs(x).max()
    square = x * x
    skew = float(square @ x) / n / (float(square.sum()) / n) ** 1.5 * math.sqrt(n * (n - 1)) / (n - 2)
    error = SKEW_ERRORS * math.sqrt(6 / n)
    return error - skew, error + skew
