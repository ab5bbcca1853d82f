"""Tokens per second by batch size on this machine: where ``DEFAULT_BATCH_TOKENS`` comes from.

    python bench/batch.py [--device cpu] [--rounds 3]

Sizes are interleaved and the median of the rounds is printed with its range.
"""

from __future__ import annotations

import argparse
import statistics
import time

from evalgpt import Window
from evalgpt.core.plugins import load_plugins
from evalgpt.scoring.batching import BatchSize, batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4096, help="how many to score per size and round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    options = parser.parse_args()
    model = load_plugins().model(f"scratch:context_length={options.context}", device=options.device)
    total = options.tokens
    ids = [(7919 * i) % model.vocab_size for i in range(total + 1)]
    step = options.context
    windows = [Window(ids[i : i + step + 1], 1) for i in range(0, total, step)]
    speeds: dict[int, list[float]] = {size: [] for size in options.sizes}
    for _ in range(options.rounds + 1):
        for size in options.sizes:
            began = time.perf_counter()
            for batch in batches([step] * len(windows), BatchSize(size)):
                model.score([windows[i] for i in batch])
            speeds[size].append(total / (time.perf_counter() - began))
    for size, found in speeds.items():
        kept = found[1:]  # the first round warms up
        print(f"{size:>6} tokens per batch: {statistics.median(kept):7.0f} tokens/s ({min(kept):.0f}-{max(kept):.0f})")


if __name__ == "__main__":
    main()
