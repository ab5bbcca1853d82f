"""Peak memory above the loaded weights while one window is scored (Linux).

Each way of scoring runs in a process of its own. After the model is built, the kernel's high-water mark of resident
memory is reset (5 to /proc/self/clear_refs) and the resident size noted; after scoring, the high-water mark less
that size is what the scoring took. A first window of 16 tokens warms the libraries up, so that what they allocate
once is not counted.

    python bench/memory.py [--context 1024] [--preset 124M]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def resident(key: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def measure(way: str, preset: str, context: int) -> float:
    """MiB above the loaded weights for one window of ``context`` fed tokens."""
    import torch

    from evalgpt import Window
    from evalgpt.core.plugins import load_plugins

    model = load_plugins().model(f"scratch:{preset},context_length={context}", device="cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocab_size, (context + 1,), generator=generator).tolist()

    def score(ids: list[int]) -> None:
        if way == "tiled":
            model.score([Window(ids, 1)])
            return
        with torch.inference_mode():
            logits = model.module(torch.tensor([ids[:-1]]))
            torch.nn.functional.cross_entropy(logits[0], torch.tensor(ids[1:]), reduction="none")

    score(ids[:17])
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    score(ids)
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="124M")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--way", choices=["tiled", "full"], help="measure one way in this process, print JSON")
    options = parser.parse_args()
    if options.way:
        print(json.dumps({"way": options.way, "mib": measure(options.way, options.preset, options.context)}))
        return
    for way in ("tiled", "full"):
        command = [sys.executable, __file__, "--way", way]
        command += ["--preset", options.preset, "--context", str(options.context)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{way:>6} {found['mib']:8.1f} MiB above the weights, one window of {options.context} tokens")


if __name__ == "__main__":
    main()
