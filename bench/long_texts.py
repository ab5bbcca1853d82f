"""Memory and time of texts of 10, 100 and 1000 MB, scored part by part; the model costs next to nothing.

    python bench/long_texts.py [--megabytes 10 100 1000] [--json FILE]

GPT-2's tokenizer, context 1024, protocol exact; a "model" that gives every token the same loss, so that what is
measured is everything else: reading, tokenizing, windows, counting, the interval. Each size in a process of its own;
the peak is of the whole process (VmHWM), Python and the tokenizer included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from memory import resident

import evalgpt
from evalgpt.core import Detail, Encoding, Model, TokenScores, Window
from evalgpt.core.plugins import load_plugins
from evalgpt.tasks import text


class Constant(Model):
    """Every token costs 3 nats."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.name, self.fingerprint = "constant", "constant"
        self.context_length, self.vocab_size, self.prefix_id = 1024, 50257, 50256

    def encode(self, text: str) -> Encoding:
        found: Encoding = self._tokenizer.encode(text)
        return found

    def cut(self, text: str) -> int:
        return int(self._tokenizer.cut(text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids))

    def score(self, windows: Sequence[Window], detail: Detail | None = None) -> Sequence[TokenScores]:
        return [TokenScores(np.full(len(w.ids) - w.start, 3.0, np.float32)) for w in windows]


def one(megabytes: int) -> dict[str, float]:
    from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer

    story = (files("evalgpt.tasks") / "story.txt").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.txt"
        with path.open("wb") as file:
            for _ in range(megabytes * 1_000_000 // len(story)):
                file.write(story)
        text.LONG = 1  # the smallest, too, is read in parts
        task = load_plugins().task(f"text:{path}")
        model = Constant(GPT2Tokenizer())
        began = time.perf_counter()
        before = resident("VmRSS")
        found = evalgpt.evaluate(model, task)
        seconds = time.perf_counter() - began
    peak = resident("VmHWM")
    assert not found.rows
    return {
        "megabytes": megabytes,
        "tokens": found.metrics.scores,
        "seconds": seconds,
        "before_mib": before,
        "peak_mib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", type=int)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one)))
        return
    found = []
    print("| MB | tokens | MiB before | MiB at the peak | seconds | MB/s |\n|---:|---:|---:|---:|---:|---:|")
    for size in given.megabytes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], capture_output=True, text=True, check=True
        )
        row = json.loads(done.stdout)
        found.append(row)
        print(
            f"| {size} | {row['tokens']:,} | {row['before_mib']:.0f} | {row['peak_mib']:.0f} | {row['seconds']:.0f} "
            f"| {size / row['seconds']:.1f} |",
            flush=True,
        )
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
