"""How often stopped intervals hold, how often a settled sign is wrong, and how many windows that takes, simulated.

Each stream is a text of its own (``stopping_texts.py``): its windows' mean losses are drawn and weighted; the design of
``evalgpt.scoring.strata`` orders them, and the rule of ``evalgpt.scoring.sequential`` stops where it will. An interval
holds if the whole text's ratio is in it; a sign is wrong if it is not that of the whole text, and any sign is wrong
where that is exactly 0.

*Windows* is the mean part of the windows that were evaluated. *Oracle* is that of a design which knows the variance
(and the difference) beforehand and looks once: for a precision, the fewest windows at which 1.96 standard errors are
the half-width; for a sign, the fewest at which a 5 % test finds it with 90 % probability.

Rows of kind *beyond* break the assumption: their kind of window is rarer than 1 %.

    python bench/stopping.py                  # 1000 streams per row; about an hour on one core
    python bench/stopping.py --streams 100 --only sign
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from stopping_texts import BEYOND, PLAIN, RARE, TAILS, TRENDS, Array, Text, drawn, rare

from evalgpt.scoring.sequential import Interval, Sequential, decided, half_width, precise_enough
from evalgpt.scoring.strata import BOUNDARY_LEVEL, RAREST, design

Found = dict[str, str | float]


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


def stopped(
    data: tuple[Array, Array, Array],
    seed: int,
    target: float | None,
    stop: Callable[[Interval], bool],
    rarest: float = RAREST,
) -> Interval:
    """The interval at which the rule stops."""
    y, n, covariate = data
    plan = design(covariate, seed, rarest)
    y, n = y[plan.order], n[plan.order]
    rule = Sequential(len(y), float(n.sum()), BOUNDARY_LEVEL, target, plan.first, plan.strata)
    at = 0
    while at < len(y):
        end = rule.next_look
        rule.extend(y[at:end], n[at:end])
        at = end
        if stop(rule.interval()):
            break
    return rule.interval()


def precision(text: Text, count: int, wanted: float, streams: int, number: int) -> Row:
    """Evaluate until the perplexity is known to ``wanted``."""
    rng, row = np.random.default_rng([20261122, number]), Row()
    target = half_width(wanted)
    for stream in range(streams):
        data = y, n, _ = drawn(rng, text, count)
        found = stopped(data, 1_000_000 * number + stream, target, lambda i: precise_enough(i, wanted))
        truth = float(y.sum() / n.sum())
        row.good += found.low - 1e-12 <= truth <= found.high + 1e-12
        row.part += found.windows / count
        row.full += found.windows == count
        row.oracle += oracle(count, (target / 1.96 / deviation(y, n)) ** 2)
    return row


def sign(text: Text, count: int, effect: float, streams: int, number: int) -> Row:
    """Evaluate two models until the sign is settled; the difference is ``effect`` standard deviations of a window."""
    rng, row = np.random.default_rng([20261123, number]), Row()
    for stream in range(streams):
        y, n, covariate = drawn(rng, text, count)
        y -= y.sum() / n.sum() * n
        # The sign of the effect against that of the skewness matters: both are simulated.
        side = (-1) ** stream
        y += effect * deviation(y, n) * side * n
        found = stopped((y, n, covariate), 1_000_000 * number + stream, None, lambda i: bool(decided(i)))
        settled = decided(found)
        if found.windows == count and abs(found.estimate) < 1e-9:
            settled = 0
        row.good += settled in (0, int(np.sign(effect)) * side)
        row.part += found.windows / count
        row.full += found.windows == count
        row.oracle += oracle(count, (effect / (1.96 + 1.2816)) ** 2)
    return row


Rows = Iterator[tuple[str, Text, int, float]]


def precision_rows() -> Rows:
    """Family, text, windows, precision."""
    for text in RARE:
        yield "rare", text, 1070, 0.05
        if text.height == 5:
            yield "rare", text, 300, 0.05
        if text.height < 15:
            yield "rare", text, 1070, 0.02
        if text.height > 2 and text.rare <= 2:
            yield "rare", text, 5000, 0.05
    for family, texts in (("trend", TRENDS), ("tails", TAILS), ("plain", PLAIN)):
        for text in texts:
            yield from ((family, text, count, p) for count, p in [(300, 0.05), (1070, 0.02), (5000, 0.02)])
        yield family, texts[0], 1070, 0.01
        yield family, texts[0], 1070, 0.05
    yield from (("beyond", text, count, 0.05) for text in BEYOND for count in (1070, 5000))


def sign_rows() -> Rows:
    """Family, text, windows, difference in standard deviations of a window; its sign alternates from run to run."""
    opposite = [rare(k, h) for k, h in [(10, 1), (20, 1), (20, 5), (50, 1), (50, 5), (100, 1), (100, 2), (100, 15)]]
    kinds = [("rare", opposite), ("trend", TRENDS[1:]), ("tails", TAILS), ("plain", [PLAIN[0], PLAIN[3]])]
    for family, texts in [*kinds, ("beyond", BEYOND)]:
        for text in texts:
            yield from ((family, text, count, effect) for count, effect in [(300, 0.0), (1070, 0.0), (1070, 0.02)])
    yield from ((family, texts[-1], 5000, 0.0) for family, texts in kinds)


def measured(kind: str, rows: Rows, streams: int, part: tuple[int, int]) -> Iterator[Found]:
    """Simulate and print the rows, every so many-th of them from the first of ``part`` on."""
    what, run = ("holds", precision) if kind == "precision" else ("right", sign)
    asked = "precision, %" if kind == "precision" else "difference, sd"
    print(f"| family | windows | N | {asked} | {what}, % | scored, % | oracle, % | went to the end, % |")
    print("|---|---|---|---|---|---|---|---|")
    for number, (family, text, count, value) in enumerate(rows):
        if number % part[1] != part[0]:
            continue
        row = run(text, count, value, streams, number)
        p = row.good / streams
        parts = [round(100 * x / streams, 1) for x in (row.part, row.oracle, row.full)]
        shown = f"{100 * value if kind == 'precision' else value:g}"
        cells = [family, text.name, count, shown, f"{100 * p:.1f}", *parts]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        yield {
            "kind": kind,
            "family": family,
            "windows": text.name,
            "N": count,
            asked: float(shown),
            what: 100 * p,
        } | dict(zip(("scored", "oracle", "to the end"), parts, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000, help="per row")
    parser.add_argument("--only", choices=["precision", "sign"])
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("K", "OF"), help="every OF-th row from K")
    parser.add_argument("-o", "--output", type=Path, help="the rows as JSON, written after each")
    args = parser.parse_args()
    began, found = time.perf_counter(), list[Found]()
    for kind, rows in (("precision", precision_rows()), ("sign", sign_rows())):
        if args.only not in (None, kind):
            continue
        for row in measured(kind, rows, args.streams, tuple(args.part)):
            found.append(row)
            if args.output:
                args.output.write_text(json.dumps({"streams": args.streams, "rows": found}, indent=1) + "\n")
        held = [float(row["holds" if kind == "precision" else "right"]) for row in found
                if row["kind"] == kind and row["family"] != "beyond"]  # fmt: skip
        low = sum(x < 94 for x in held)
        print(f"\nWithin the assumption: {len(held)} rows, mean {np.mean(held):.2f} %, least {min(held):.1f} %, "
              f"{low} below 94 %.\n")  # fmt: skip
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
