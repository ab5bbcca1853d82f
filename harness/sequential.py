"""A text's loss, or a difference of two models, from some of its windows in random order, with intervals one may watch.

The unit is a window: its sum of losses (or of differences) and its weight (tokens, or bytes). The target is the ratio
of sums over all windows of the text, the number that a full run gives: it says nothing of other texts, which is what
``evalgpt.statistics`` is for. Losses are correlated within a window and along the text; in random order windows are a
sample without replacement, so that neither matters. ``bench/stopping.py`` measures coverage and the windows needed.

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
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evalgpt.statistics import t_half_width

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


class Sequential:
    """The ratio sum(y) / sum(n) over all windows of a text, from windows added in random order.

    Args:
        windows: N, of the whole text.
        weight: sum(n) over the whole text.
        level: probability that the intervals of all looks hold.
        target: the half-width at which one will stop, in the ratio's unit. None: one stops by the interval's position.
        first: windows at the first look.

    Without ``target`` the spending is over looks, whatever the data: a difference may be settled at any of them.
    With it the width alone says when to stop, so that the spending can follow the information, 1 / variance, as a
    fraction of what the target needs (Mehta and Tsiatis 2001, Drug Information Journal 35, 1095-1112), by Lan and
    DeMets' O'Brien-Fleming-like function: little is spent early, and all that is left at the look that reaches the
    target, whose interval then stays until all windows are seen.

    Raises:
        ValueError: a count, weight or target that is not positive, a level outside (0, 1), or ``first`` below 2.
    """

    def __init__(
        self, windows: int, weight: float, level: float = 0.95, target: float | None = None, first: int = FIRST
    ) -> None:
        positive = windows >= 1 and 0 < weight < math.inf and (target is None or target > 0)
        if not positive or not 0 < level < 1 or first < 2:
            raise ValueError(f"no intervals: {windows=}, {weight=}, {level=}, {target=}, {first=}")
        self._windows, self._weight, self._alpha, self._target = windows, float(weight), 1 - level, target
        self._y, self._n = list[float](), list[float]()
        self._looks = _schedule(windows, DECIDE_STEP if target is None else PRECISION_STEP, first)
        self._next, self._first, self._exits = 0, first, _Exits()
        self._latest = Interval(math.nan, -math.inf, math.inf, 0)

    def add(self, y: float, n: float) -> bool:
        """Add the next window of the random order; True if this was a look, so that ``interval()`` is new.

        Raises:
            ValueError: a negative weight, more windows than the text has, or another weight than it has.
        """
        if not 0 <= n < math.inf or len(self._y) == self._windows:
            raise ValueError(f"window {len(self._y) + 1} of {self._windows} has weight {n}")
        self._y.append(float(y))
        self._n.append(float(n))
        if len(self._y) < self._looks[self._next]:
            return False
        self._look()
        return True

    def interval(self) -> Interval:
        """The interval of the latest look."""
        return self._latest

    def _look(self) -> None:
        self._next += 1
        y, n, count = np.array(self._y), np.array(self._n), len(self._y)
        # Correctly rounded sums, so that the last number does not depend on the order.
        seen = math.fsum(self._n)
        value = math.fsum(self._y) / seen if seen and np.isfinite(y).all() else float(y.sum())
        if count == self._windows:
            if not math.isclose(seen, self._weight, rel_tol=1e-9):
                raise ValueError(f"the windows weigh {seen} together, not {self._weight}")
            self._latest = Interval(value, value, value, count)
        elif not seen or not math.isfinite(value):
            self._latest = Interval(value, -math.inf, math.inf, count)
        else:
            residual, share = y - value * n, n / seen
            error, skew, size = self._error(residual, share, seen), _skewness(residual), 1 / float(share @ share)
            critical = self._critical(count, error, size, skew)
            if critical is not None:
                down, up = self._sides(critical, size, skew)
                self._latest = Interval(value, value - down * error, value + up * error, count)

    def _error(self, residual: NDArray[np.float64], share: NDArray[np.float64], seen: float) -> float:
        """Standard error of the ratio: Royall's for a ratio of sums (1970, doi:10.1093/biomet/57.2.377).

        The error is the unseen windows' residuals less the seen ones' scaled up to their weight, over the total
        weight. Squared residuals are over 1 - share, as in ``evalgpt.statistics``, for the fitted ratio.
        """
        count, left = len(residual), max(self._weight - seen, 0.0) / seen
        variance = float(residual @ (residual / np.maximum(1 - share, 1e-12))) / count
        return math.sqrt(variance * (self._windows - count + left * left * count)) / self._weight

    def _critical(self, count: int, error: float, size: float, skew: tuple[float, float]) -> float | None:
        """The critical value at a look, on the scale of a normal deviate, or None where the look spends nothing."""
        if self._target is None:
            return _even(self._windows, self._first, self._alpha)[self._next - 1]
        u, spent = count / (self._windows - count), self._exits.spent
        if spent >= self._alpha or error > self._target:
            return None
        reached = error * self._sides(self._exits.critical(u, self._alpha), size, skew)[0]
        if reached <= self._target:
            return self._exits.step(u, self._alpha)
        root = self._target / reached  # of the information as a fraction of what the target needs
        spend = EARLY * 2 * math.erfc(-NormalDist().inv_cdf(self._alpha / 4) / math.sqrt(2) / root)
        return self._exits.step(u, spend) if spend > spent + 1e-7 else None

    def _sides(self, critical: float, size: float, skew: tuple[float, float]) -> tuple[float, float]:
        """Standard errors below and above the estimate: Student's t, widened for skewness; equal with a target.

        A sample without its rare large values has too small a mean and too small an error at once. Cornish and
        Fisher's quantile of a studentised mean (Hall 1992, The Bootstrap and Edgeworth Expansion, chapter 2), here for
        a part f of a finite population: mean -a (1 - f) / 2, third cumulant -a (2 - f), a the skewness over
        sqrt(size (1 - f)). ``size`` is the effective number of windows, 1 over the sum of their squared shares.
        """
        f = len(self._y) / self._windows
        t = t_half_width(1 - math.erfc(critical / math.sqrt(2)), max(size - 1, 1.0))
        per = ((1 - f) / 2 + (2 - f) * (critical**2 - 1) / 6) / math.sqrt(size * (1 - f))
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
    skew = float(np.mean(x**3) / np.mean(x**2) ** 1.5) * math.sqrt(n * (n - 1)) / (n - 2)
    error = SKEW_ERRORS * math.sqrt(6 / n)
    return error - skew, error + skew
