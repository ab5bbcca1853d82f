"""How many tokens ``--precision`` takes on a real text, and how often it holds: the rule replayed on a whole report.

The report is that of a full run with ``--tokens``. Each seed orders its windows anew; nothing is computed again.

    evalgpt run -m smollm2 -t text:wikitext-2-valid.txt -p exact:context=512,stride=256 --tokens -o whole.json
    python bench/stopping_replay.py whole.json --seeds 200
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from stopping import stopped
from stopping_texts import Array

from evalgpt.report import Evaluation, read_report
from evalgpt.scoring.sequential import half_width, precise_enough
from evalgpt.scoring.strata import RAREST, unigram_loss


def windows_of(evaluation: Evaluation) -> tuple[Array, Array, Array]:
    """Sums of losses, scored tokens and unigram losses of all windows."""
    losses, scored = [], []
    for row in evaluation.rows:
        found = row.tokenized
        if found is None:
            raise SystemExit("the report keeps no losses of single tokens; run with --tokens")
        at = 0
        for first, size in zip(found.first, found.size, strict=True):
            losses.append(found.nll[at : at + size])
            scored.append(np.array(found.ids[first : first + size], dtype=np.int64))
            at += size
    y, n = np.array([sum(x) for x in losses]), np.array([len(x) for x in losses], dtype=np.float64)
    return y, n, unigram_loss(scored)


def replay(data: tuple[Array, Array, Array], precision: float, seeds: int, rarest: float) -> dict[str, float]:
    """Tokens taken, as shares of all, and how often the interval holds the whole text's loss."""
    y, n, _ = data
    truth, parts, held = float(y.sum() / n.sum()), [], 0
    for seed in range(seeds):
        done = stopped(data, seed, half_width(precision), lambda i: precise_enough(i, precision), rarest)
        parts.append(done.windows / len(y))
        held += done.low - 1e-12 <= truth <= done.high + 1e-12
    low, median, high = np.quantile(parts, [0.1, 0.5, 0.9])
    return {"precision": precision, "rarest": rarest, "median": median, "10 %": low, "90 %": high, "held": held / seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    (evaluation,) = read_report(args.report).evaluations
    y, n, covariate = windows_of(evaluation)
    mean, spread = y / n, float((y / n).std())
    related = float(np.corrcoef(mean, covariate)[0, 1])
    print(f"{len(y)} windows, {int(n.sum())} tokens, loss {y.sum() / n.sum():.4f}")
    print(f"standard deviation of windows' means {spread:.3f}, correlation with the unigram loss {related:.2f}")
    shuffled: Callable[[Array], Array] = np.random.default_rng(0).permutation
    print("| strata | rarest, % | precision, % | windows, median, % | 10 to 90 % of seeds | held, % |")
    print("|---|---|---|---|---|---|")
    rows = []
    for name, known in (("unigram loss", covariate), ("at random", shuffled(covariate))):
        for rarest in (RAREST, 0.05):
            for precision in (0.05, 0.02):
                row = replay((y, n, known), precision, args.seeds, rarest)
                rows.append({"strata": name} | row)
                cells = [f"{100 * row[key]:.1f}" for key in ("median", "10 %", "90 %", "held")]
                shown = [
                    name,
                    f"{100 * rarest:g}",
                    f"{100 * precision:g}",
                    cells[0],
                    f"{cells[1]} to {cells[2]}",
                    cells[3],
                ]
                print("| " + " | ".join(shown) + " |", flush=True)
    if args.output:
        summary = {"windows": len(y), "tokens": int(n.sum()), "spread": spread, "correlation": related}
        args.output.write_text(json.dumps(summary | {"seeds": args.seeds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
