"""How often stopped intervals hold, how often a settled sign is wrong, and how many windows that takes, simulated.

Each stream is a text of its own: its windows' mean losses are drawn, weighted and put in random order, and the rule
of ``evalgpt.sequential`` stops where it will. An interval holds if the whole text's ratio is in it; a sign is wrong if
it is not that of the whole text, and any sign is wrong where that is exactly 0.

*Windows* is the mean part of the windows that were evaluated. *Oracle* is that of a design which knows the variance
(and the difference) beforehand and looks once: for a precision, the fewest windows at which 1.96 standard errors are
the half-width; for a sign, the fewest at which a 5 % test finds it with 90 % probability.

(*) Where one window in a hundred carries the skewness, a sample that missed them cannot know.

    python bench/stopping.py                  # 1000 streams per row; about 5 minutes on one core
    python bench/stopping.py --streams 4000
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgpt.sequential import Sequential, decided, half_width, order, precise_enough

Array = NDArray[np.float64]
TOKENS = 512


@dataclass(frozen=True)
class Text:
    """How a text's windows differ. Losses have mean 3.2 and standard deviation ``spread`` nats per token."""

    name: str
    shape: str
    spread: float = 0.25
    unequal: bool = False


TEXTS = [
    Text("normal", "normal"),
    Text("gamma, skewness 1", "gamma1"),
    Text("exponential, skewness 2", "gamma2"),
    Text("lognormal, sigma 0.7, skewness 2.9", "lognormal"),
    Text("normal, 5 % of windows 4 sd up", "bursts"),
    Text("gamma 1, autoregressive 0.9 along the text", "along"),
    Text("gamma 1, unequal weights", "gamma1", unequal=True),
]
HARD = Text("normal, 1 % of windows 10 sd up (*)", "rare")


def scatter(rng: np.random.Generator, shape: str, count: int) -> Array:
    """``count`` values of mean 0 and standard deviation 1, in text order."""
    if shape == "normal":
        return rng.standard_normal(count)
    if shape == "along":
        # A sum of squares of autoregressive sequences is gamma distributed: 8 squares, skewness 1.
        z = rng.standard_normal((count, 8))
        for t in range(1, count):
            z[t] = math.sqrt(0.9) * z[t - 1] + math.sqrt(0.1) * z[t]
        return np.asarray(((z**2).sum(1) - 8) / 4)
    if shape in ("gamma1", "gamma2"):
        k = 4.0 if shape == "gamma1" else 1.0
        return np.asarray((rng.gamma(k, size=count) - k) / math.sqrt(k))
    if shape == "lognormal":
        s2 = 0.49
        return np.asarray((rng.lognormal(0, 0.7, count) - math.exp(s2 / 2)) / math.sqrt(math.expm1(s2) * math.exp(s2)))
    part, up = (0.05, 4.0) if shape == "bursts" else (0.01, 10.0)
    x = rng.standard_normal(count) + up * (rng.random(count) < part)
    return np.asarray((x - part * up) / math.sqrt(1 + part * (1 - part) * up * up))


def weights(rng: np.random.Generator, text: Text, count: int) -> Array:
    """Tokens of each window: all full but the last, or lognormal."""
    if text.unequal:
        return np.asarray(np.maximum(1, np.round(TOKENS * rng.lognormal(0, 0.6, count))))
    n = np.full(count, float(TOKENS))
    n[-1] = rng.integers(1, TOKENS)
    return n


def deviation(y: Array, n: Array) -> float:
    """Standard deviation of the windows' residuals in units of the mean weight."""
    return float((y - y.sum() / n.sum() * n).std() / n.mean())


def oracle(count: int, needed: float) -> float:
    """Part of the windows at which the variance of the mean is ``needed``, in units of the windows' variance."""
    return math.ceil(count / (1 + needed * count)) / count


@dataclass
class Row:
    """Sums over the streams of one row."""

    good: int = 0
    part: float = 0.0
    oracle: float = 0.0
    full: int = 0


def precision(text: Text, count: int, wanted: float, streams: int, number: int) -> Row:
    """Evaluate until the perplexity is known to ``wanted``."""
    rng, row = np.random.default_rng([20261122, number]), Row()
    for stream in range(streams):
        n = weights(rng, text, count)
        y = (3.2 + text.spread * scatter(rng, text.shape, count)) * n
        estimate = Sequential(count, float(n.sum()), target=half_width(wanted))
        for k in order(count, 1_000_000 * number + stream):
            if estimate.add(y[k], n[k]) and precise_enough(estimate.interval(), wanted):
                break
        found, truth = estimate.interval(), float(y.sum() / n.sum())
        row.good += found.low - 1e-12 <= truth <= found.high + 1e-12
        row.part += found.windows / count
        row.full += found.windows == count
        row.oracle += oracle(count, (half_width(wanted) / 1.96 / deviation(y, n)) ** 2)
    return row


def sign(text: Text, count: int, effect: float, streams: int, number: int) -> Row:
    """Evaluate two models until the sign is settled; the difference is ``effect`` standard deviations of a window."""
    rng, row = np.random.default_rng([20261123, number]), Row()
    for stream in range(streams):
        n = weights(rng, text, count)
        y = text.spread / 4 * scatter(rng, text.shape, count) * n
        y -= y.sum() / n.sum() * n
        # The sign of the effect against that of the skewness matters: both are simulated.
        y += effect * deviation(y, n) * (-1) ** stream * n
        estimate = Sequential(count, float(n.sum()))
        for k in order(count, 1_000_000 * number + stream):
            if estimate.add(y[k], n[k]) and decided(estimate.interval()):
                break
        found = estimate.interval()
        settled = decided(found)
        if found.windows == count and abs(found.estimate) < 1e-9:
            settled = 0
        row.good += settled in (0, int(np.sign(effect)) * (-1) ** stream)
        row.part += found.windows / count
        row.full += found.windows == count
        row.oracle += oracle(count, (effect / (1.96 + 1.2816)) ** 2)
    return row


def show(name: str, count: int, what: str, row: Row, streams: int) -> None:
    p = row.good / streams
    error = 100 * math.sqrt(max(p * (1 - p), 1e-4) / streams)
    cells = [row.part / streams, row.oracle / streams, row.full / streams]
    parts = " | ".join(f"{100 * x:.1f}" for x in cells)
    print(f"| {name} | {count} | {what} | {100 * p:.1f} ± {error:.1f} | {parts} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000, help="per row")
    parser.add_argument("--only", choices=["precision", "sign"])
    args = parser.parse_args()
    began = time.perf_counter()
    sizes = [(30, 0.10), (100, 0.05), (300, 0.03), (1000, 0.02), (3000, 0.02), (3000, 0.05)]
    if args.only != "sign":
        print("| windows' losses | N | precision, % | holds, % | windows, % | oracle, % | went to the end, % |")
        print("|---|---|---|---|---|---|---|")
        total = []
        for number, (text, count, wanted) in enumerate((t, n, p) for t in [*TEXTS, HARD] for n, p in sizes):
            row = precision(text, count, wanted, args.streams, number)
            show(text.name, count, f"{100 * wanted:g}", row, args.streams)
            if text is not HARD:
                total.append(row.good / args.streams)
        print(f"\nMean of the rows without (*): {100 * np.mean(total):.2f} %; least {100 * min(total):.1f} %.\n")
    if args.only != "precision":
        print("| windows' differences | N | difference, sd | right, % | windows, % | oracle, % | went to the end, % |")
        print("|---|---|---|---|---|---|---|")
        total = []
        effects = [(30, 0.0), (30, 0.5), (300, 0.0), (300, 0.02), (300, 0.2), (3000, 0.0), (3000, 0.1), (3000, 1.0)]
        for number, (text, count, effect) in enumerate((t, n, e) for t in [*TEXTS, HARD] for n, e in effects):
            row = sign(text, count, effect, args.streams, number)
            show(text.name, count, f"{effect:g}", row, args.streams)
            if text is not HARD:
                total.append(row.good / args.streams)
        print(f"\nMean of the rows without (*): {100 * np.mean(total):.2f} %; least {100 * min(total):.1f} %.\n")
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
