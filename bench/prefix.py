"""How much faster questions with one long context and several options are when the context is computed once.

    python bench/prefix.py [--model scratch:context_length=1024] [--prefix 200] [--options 8] [--length 12]

Interleaved with the plain loop, which scores each option with its context by itself; medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from evalgpt import Window
from evalgpt.core.plugins import load_plugins
from evalgpt.scoring.batching import BatchSize, Scorer, make_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scratch:context_length=1024")
    parser.add_argument("--prefix", type=int, default=200)
    parser.add_argument("--options", type=int, default=8)
    parser.add_argument("--length", type=int, default=12)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    model = load_plugins().model(given.model, device="cpu")
    generator = np.random.default_rng(0)
    windows = []
    for _ in range(given.questions):
        context = generator.integers(100, 40_000, given.prefix).tolist()
        ends = generator.integers(100, 40_000, (given.options, given.length)).tolist()
        windows += [Window([*context, *end], given.prefix) for end in ends]

    def plain() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.concatenate([model.score([window])[0].nll for window in windows])

    def shared() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        scorer = Scorer(model, BatchSize.of(model, None))
        found = {}
        for batch in make_batches(windows, scorer.size, model):
            found.update(zip(batch, scorer.score([windows[i] for i in batch]), strict=True))
        return np.concatenate([found[i].nll for i in range(len(windows))])

    difference = float(np.abs(plain() - shared()).max())
    times: dict[str, list[float]] = {"plain": [], "shared": []}
    for _ in range(given.rounds):
        for name, way in (("plain", plain), ("shared", shared)):
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        print(f"{name:>7}: {medians[name] / given.questions:.3f} s a question ({min(found):.2f} to {max(found):.2f} s)")
    print(f"  ratio: {medians['plain'] / medians['shared']:.2f}; largest difference {difference:.1e} nats")


if __name__ == "__main__":
    main()
