"""How often 95 % intervals hold, and paired tests err, on simulated correlated token losses.

Two models' losses are drawn as correlated Gaussian sequences whose quantiles are then those of Weibull distributions
of mean 3 (shape 1.1 and standard deviation 2.7 for model A, 0.9 and 3.3 for B), so that the expected losses are equal
and known, and the difference is skewed. A sequence is white noise; or first-order autoregressive; or white noise
with a slowly changing level (``topic``) that carries 1 or 2 % of the variance, as the losses of real models look. A
document may have a level of its own, its first tokens may cost more, and its length may be random.

    python bench/coverage.py               # 5 to 10 minutes on one core; prints the table of docs/uncertainty.md
    python bench/coverage.py --candidates  # the methods not chosen, on 5000 tokens; 2 minutes
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evalgpt.report.statistics import ratio_estimate, t_half_width

Array = NDArray[np.float64]
MEAN, SHAPES = 3.0, (1.1, 0.9)
COMMON = 0.8
"""Correlation of the two models' Gaussian sequences."""
START, FADE = 2.0, 20.0
"""Where a document's first tokens cost more: by START nats at the first, fading over FADE tokens."""


@dataclass(frozen=True)
class Cell:
    """One row of the table: ``documents`` of ``length`` tokens (median, if ``spread``, the log's sigma, is not 0).

    ``time`` is the autocorrelation time of the Gaussian sequence, (1 + phi) / (1 - phi); or, with ``topic`` (a share
    of the variance), that of the level. ``level`` is the share of a document's own level.
    """

    name: str
    documents: int
    length: int
    time: float = 1.0
    topic: float = 0.0
    level: float = 0.0
    spread: float = 0.0
    start: bool = False
    hard: bool = False
    replications: int = 4000


CELLS = [
    Cell("independent", 1, 5000),
    Cell("autoregressive", 1, 5000, time=2),
    Cell("autoregressive", 1, 5000, time=5),
    Cell("autoregressive", 1, 5000, time=20),
    Cell("autoregressive", 1, 5000, time=50),
    Cell("topic 1 %, 150 tokens", 1, 5000, time=300, topic=0.01),
    Cell("topic 2 %, 500 tokens", 1, 5000, time=1000, topic=0.02, hard=True),
    Cell("autoregressive", 1, 1000, time=5),
    Cell("independent", 1, 50_000, replications=2000),
    Cell("autoregressive", 1, 50_000, time=5, replications=2000),
    Cell("autoregressive", 1, 50_000, time=50, replications=2000),
    Cell("topic 1 %, 150 tokens", 1, 50_000, time=300, topic=0.01, replications=2000),
    Cell("topic 1 %, 500 tokens", 1, 50_000, time=1000, topic=0.01, replications=2000),
    Cell("autoregressive", 2, 2500, time=20),
    Cell("topic 1 %, 150 tokens, document level 1 %", 2, 2500, time=300, topic=0.01, level=0.01, hard=True),
    Cell("topic 1 %, 150 tokens, document level 1 %", 3, 2000, time=300, topic=0.01, level=0.01),
    Cell("autoregressive", 5, 1000, time=5),
    Cell("autoregressive", 5, 1000, time=50),
    Cell("topic 1 %, 150 tokens, document level 1 %", 5, 1000, time=300, topic=0.01, level=0.01),
    Cell("topic 1 %, 150 tokens, document level 1 %", 5, 1000, time=300, topic=0.01, level=0.01, spread=0.7),
    Cell("autoregressive, document level 2 %", 10, 500, time=5, level=0.02, spread=0.7),
    Cell("autoregressive, document level 2 %", 20, 200, time=5, level=0.02, spread=0.7),
    Cell("independent", 50, 200, spread=0.7),
    Cell("autoregressive, document level 2 %", 50, 200, time=5, level=0.02, spread=0.7),
    Cell("autoregressive, document level 2 %", 200, 200, time=5, level=0.02, spread=0.7),
    Cell("the same, first tokens cost more", 200, 200, time=5, level=0.02, spread=0.7, start=True),
    Cell("autoregressive, document level 5 %", 1000, 30, time=2, level=0.05, spread=1.0, replications=2000),
]


def sequence(rng: np.random.Generator, cell: Cell, start: NDArray[np.bool_], which: NDArray[np.int64]) -> Array:
    """Standard Gaussian sequences [tokens, replications], independent between documents and replications."""
    white = rng.standard_normal(start.shape)
    out = white
    if cell.time > 1:
        phi = (cell.time - 1) / (cell.time + 1)
        slow = rng.standard_normal(start.shape) if cell.topic else white
        keep, fresh = np.where(start, 0.0, phi), np.where(start, 1.0, math.sqrt(1 - phi * phi))
        slow *= fresh
        for t in range(1, len(slow)):
            slow[t] += keep[t] * slow[t - 1]
        out = math.sqrt(1 - cell.topic) * white + math.sqrt(cell.topic) * slow if cell.topic else slow
    if cell.level:
        levels = rng.standard_normal((cell.documents, start.shape[1]))
        own = np.take_along_axis(levels, np.minimum(which, cell.documents - 1), axis=0)
        out = math.sqrt(1 - cell.level) * out + math.sqrt(cell.level) * own
    return out


def quantiles(shape: float) -> tuple[Array, Array]:
    """Gaussian values and the Weibull losses at the same quantiles: two columns to interpolate between."""
    z = np.linspace(-8, 8, 4001)
    tail = np.array([NormalDist().cdf(-value) for value in z])
    return z, MEAN / math.gamma(1 + 1 / shape) * (-np.log(tail)) ** (1 / shape)


TABLES = [quantiles(shape) for shape in SHAPES]


def lengths(rng: np.random.Generator, cell: Cell, count: int) -> NDArray[np.int64]:
    """Tokens per document [documents, count]."""
    drawn = cell.length * np.exp(cell.spread * rng.standard_normal((cell.documents, count)))
    return np.clip(np.round(drawn), 5, 20 * cell.length).astype(np.int64)


def expected(cell: Cell) -> float:
    """Model A's expected total loss of a document over its expected length."""
    if not cell.start:
        return MEAN
    size = np.arange(5, 20 * cell.length + 1)
    edges = [NormalDist().cdf(math.log((n + 0.5) / cell.length) / cell.spread) for n in size[:-1]]
    chance = np.diff([0.0, *edges, 1.0])
    extra = START * np.cumsum(np.exp(-np.arange(20 * cell.length) / FADE))[size - 1]
    return MEAN + float(chance @ extra) / float(chance @ size)


def simulate(rng: np.random.Generator, cell: Cell, count: int) -> list[tuple[Array, Array, NDArray[np.int64]]]:
    """``count`` replications of (model A's losses, B's minus A's, document numbers)."""
    size = lengths(rng, cell, count)
    ends = np.cumsum(size, axis=0)
    longest = int(ends[-1].max())
    start = np.zeros((longest + 1, count), dtype=bool)
    start[0] = True
    np.put_along_axis(start, ends, True, axis=0)
    start = start[:longest]
    which = np.cumsum(start, axis=0) - 1
    shared = sequence(rng, cell, start, which)
    models = []
    for z, loss in TABLES:
        mixed = math.sqrt(COMMON) * shared + math.sqrt(1 - COMMON) * sequence(rng, cell, start, which)
        models.append(np.interp(mixed.T, z, loss))
    difference = models[1] - models[0]
    if cell.start:
        begins = np.maximum.accumulate(np.where(start, np.arange(longest)[:, None], 0), axis=0)
        models[0] += START * np.exp(-(np.arange(longest)[:, None] - begins) / FADE).T
    return [(models[0][r, :n], difference[r, :n], which[:n, r]) for r, n in enumerate(ends[-1])]


@dataclass
class Tally:
    """Counts over one cell's replications. ``square`` sums squared errors, ``variance`` token variances over n."""

    runs: int = 0
    tokens: int = 0
    holds: int = 0
    naive_holds: int = 0
    errs: int = 0
    naive_errs: int = 0
    width: float = 0.0
    square: float = 0.0
    variance: float = 0.0
    methods: set[str] = field(default_factory=set)


def measure(cell: Cell, number: int) -> Tally:
    """Simulate one cell; its seed is its row in the table."""
    rng = np.random.default_rng([20240607, number])
    truth, tally = expected(cell), Tally()
    chunk = max(20, min(400, 4_000_000 // (cell.documents * cell.length)))
    while tally.runs < cell.replications:
        for loss, difference, document in simulate(rng, cell, chunk):
            ones = np.ones(len(loss))
            ours = ratio_estimate(loss, ones, document)
            paired = ratio_estimate(difference, ones, document)
            assert ours.low is not None
            assert ours.high is not None
            assert paired.p_value is not None
            naive = 1.96 * loss.std() / math.sqrt(len(loss))
            tally.runs += 1
            tally.tokens += len(loss)
            tally.holds += ours.low <= truth <= ours.high
            tally.naive_holds += abs(ours.value - truth) <= naive
            tally.errs += paired.p_value < 0.05
            tally.naive_errs += abs(paired.value) > 1.96 * difference.std() / math.sqrt(len(loss))
            tally.width += (ours.high - ours.low) / 2
            tally.square += (ours.value - truth) ** 2
            tally.variance += loss.var() / len(loss)
            tally.methods.add(ours.method)
    return tally


def percent(count: int, runs: int) -> str:
    """A share with its Monte-Carlo standard error."""
    p = count / runs
    return f"{100 * p:.1f} ± {100 * math.sqrt(p * (1 - p) / runs):.1f}"


def table() -> None:
    """Print the Markdown table and what lies outside the target."""
    print("| losses | documents x tokens | correlation time | from | holds, % | naive | errs, % | naive | width |")
    print("|---|---|---|---|---|---|---|---|---|")
    outside = []
    for number, cell in enumerate(CELLS):
        t = measure(cell, number)
        size = f"{cell.documents:,} x {'about ' if cell.spread else ''}{cell.length:,}".replace(",", " ")
        ratio = t.square / t.variance
        width = t.width / t.runs / (1.96 * math.sqrt(t.square / t.runs))
        mark = " (*)" if cell.hard else ""
        shares = [percent(n, t.runs) for n in (t.holds, t.naive_holds, t.errs, t.naive_errs)]
        source = " or ".join(sorted(t.methods))
        print(
            f"| {cell.name}{mark} | {size} | {ratio:.1f} | {source} | {' | '.join(shares)} | {width:.2f} |", flush=True
        )
        if not (0.93 <= t.holds / t.runs <= 0.97 and 0.03 <= t.errs / t.runs <= 0.07):
            outside.append(f"row {number + 1}{mark}")
    print(f"\nOutside 93 to 97 % or 3 to 7 %: {', '.join(outside) or 'none'}.")


# The candidates. Each takes losses [replications, tokens], their autocovariances [replications, lags] and their
# squared type-II cosine coefficients, and returns the half width of the 95 % interval [replications].

LAGS = 400


def autocovariances(x: Array) -> Array:
    """Autocovariances [replications, LAGS + 1] of the rows of ``x``."""
    n = x.shape[1]
    power = np.abs(np.fft.rfft(x - x.mean(1, keepdims=True), 2 * n, axis=1)) ** 2
    return np.asarray(np.fft.irfft(power, axis=1)[:, : LAGS + 1] / n)


def squared_cosines(x: Array) -> Array:
    """Squares of the rows' orthonormal type-II cosine coefficients 1 .. n / 2 - 1."""
    n = x.shape[1]
    spectrum = np.fft.rfft(np.concatenate([x[:, ::2], x[:, 1::2][:, ::-1]], axis=1), axis=1)
    turned = spectrum * np.exp(-0.5j * np.pi * np.arange(spectrum.shape[1]) / n)
    return np.asarray(2 / n * turned.real[:, 1:-1] ** 2)


def naive(x: Array, acov: Array, squares: Array) -> Array:
    """Independent tokens."""
    return np.asarray(1.96 * np.sqrt(acov[:, 0] / x.shape[1]))


def prewhitened_hac(x: Array, acov: Array, squares: Array) -> Array:
    """Andrews and Monahan 1992: AR(1) prewhitening, quadratic spectral kernel, Andrews' plug-in bandwidth."""
    n = x.shape[1]
    centred = x - x.mean(1, keepdims=True)
    a = np.clip(acov[:, 1] / acov[:, 0], -0.97, 0.97)
    rest = autocovariances(centred[:, 1:] - a[:, None] * centred[:, :-1])
    rho = np.clip(rest[:, 1] / rest[:, 0], -0.97, 0.97)
    bandwidth = np.clip(1.3221 * (4 * rho**2 / (1 - rho) ** 4 * n) ** 0.2, 1e-3, LAGS / 3)
    u = 6 * np.pi / 5 * np.arange(1, LAGS + 1) / bandwidth[:, None]
    kernel = 3 / u**2 * (np.sin(u) / u - np.cos(u))
    variance = (rest[:, 0] + 2 * (kernel * rest[:, 1:]).sum(1)) / (1 - a) ** 2
    return np.asarray(1.96 * np.sqrt(variance / n))


def batch_means(x: Array, acov: Array, squares: Array) -> Array:
    """Batch means with t quantiles; Politis and White's block length (2004, corrected 2009)."""
    n = x.shape[1]
    rho = acov / acov[:, :1]
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    small = np.cumsum(np.abs(rho[:, 1:]) < 2 * math.sqrt(math.log10(n) / n), axis=1)
    quiet = np.concatenate([small[:, run - 1 : run], small[:, run:] - small[:, :-run]], axis=1) == run
    last = np.minimum(2 * np.maximum(np.where(quiet.any(1), quiet.argmax(1), LAGS // 2), 1), LAGS)
    k = np.arange(LAGS + 1)
    taper = np.clip(2 * (1 - k / last[:, None]), 0, 1)
    slope = 2 * (taper * k * acov).sum(1)
    spectrum = np.maximum(acov[:, 0] + 2 * (taper * acov)[:, 1:].sum(1), 0.05 * acov[:, 0])
    size = np.clip(np.ceil((2 * slope**2 / (4 / 3 * spectrum**2) * n) ** (1 / 3)), 1, 3 * math.sqrt(n)).astype(int)
    out = np.empty(len(x))
    for b in np.unique(size):
        (rows,) = np.nonzero(size == b)
        m = n // b
        means = x[rows, : m * b].reshape(len(rows), m, b).mean(2)
        out[rows] = t_half_width(0.95, m - 1) * np.sqrt(means.var(1, ddof=1) * b / n)
    return out


def cosines(count: int) -> Callable[[Array, Array, Array], Array]:
    """Equal-weighted cosines with a fixed number of them."""

    def half(x: Array, acov: Array, squares: Array) -> Array:
        return np.asarray(t_half_width(0.95, count) * np.sqrt(squares[:, :count].mean(1) / x.shape[1]))

    return half


def candidates(replications: int = 2000, n: int = 5000) -> None:
    """Print how often each candidate's interval holds on one document of ``n`` tokens."""
    methods = {
        "independent tokens": naive,
        "prewhitened quadratic spectral HAC, plug-in bandwidth": prewhitened_hac,
        "batch means, Politis-White length": batch_means,
        "cosines, 0.4 n^(2/3) of them": cosines(int(0.4 * n ** (2 / 3))),
        **{f"cosines, {count} of them": cosines(count) for count in (4, 6, 8, 12, 16, 32)},
    }
    cells = [cell for cell in CELLS if (cell.documents, cell.length) == (1, n)]
    found: dict[str, list[str]] = {name: [] for name in methods}
    for number, cell in enumerate(cells):
        rng = np.random.default_rng([20240608, number])
        holds, width, square = dict.fromkeys(methods, 0), dict.fromkeys(methods, 0.0), 0.0
        for _ in range(replications // 200):
            x = np.stack([loss for loss, _, _ in simulate(rng, cell, 200)])
            acov, squares, error = autocovariances(x), squared_cosines(x), x.mean(1) - MEAN
            square += float(error @ error)
            for name, method in methods.items():
                half = method(x, acov, squares)
                holds[name] += int((np.abs(error) <= half).sum())
                width[name] += float(half.sum())
        ideal = 1.96 * math.sqrt(square / replications) * replications
        for name in methods:
            found[name].append(f"{100 * holds[name] / replications:.1f} ({width[name] / ideal:.2f})")
    heads = [f"{c.name}, time {c.time:g}" if c.time > 1 and not c.topic else c.name for c in cells]
    print(f"| holds, % (width) | {' | '.join(heads)} |")
    print("|---" * (len(cells) + 1) + "|")
    for name, row in found.items():
        print(f"| {name} | {' | '.join(row)} |")


def few_documents(replications: int = 2000, length: int = 1000) -> None:
    """Print how often both methods' intervals hold on few equal documents, with and without a level of their own."""
    print("| documents | level | cosines hold, % (width) | clusters hold, % (width) |")
    print("|---|---|---|---|")
    for level in (0.0, 0.01):
        for documents in (2, 3, 4, 5, 10, 20):
            cell = Cell("", documents, length, time=5, level=level)
            rng = np.random.default_rng([20240609, documents])
            errors, halves = np.empty(replications), np.empty((2, replications))
            for at in range(0, replications, 100):
                for r, (loss, _, _) in enumerate(simulate(rng, cell, 100), at):
                    found = ratio_estimate(loss, np.ones(len(loss)), np.zeros(len(loss)))
                    assert found.high is not None
                    means = loss.reshape(documents, length).mean(1)
                    spread = float(means.std(ddof=1)) / math.sqrt(documents)
                    errors[r] = found.value - MEAN
                    halves[:, r] = found.high - found.value, t_half_width(0.95, documents - 1) * spread
            holds = 100 * (np.abs(errors) <= halves).mean(1)
            widths = halves.mean(1) / (1.96 * math.sqrt(np.mean(errors**2)))
            both = [f"{h:.1f} ({w:.2f})" for h, w in zip(holds, widths, strict=True)]
            print(f"| {documents} x {length} | {100 * level:g} % | {' | '.join(both)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", action="store_true", help="compare the methods not chosen instead")
    began = time.perf_counter()
    if parser.parse_args().candidates:
        candidates()
        print()
        few_documents()
    else:
        table()
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
