"""GPT-2's checkpoints as transformers publishes them, read into the course's GPTModel.

Source of the layout: transformers, models/gpt2/modeling_gpt2.py. Its linear layers inside the blocks are Conv1D,
whose weight is the transpose of nn.Linear's; query, key and value are one matrix; the head is the token embedding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evalgpt.adapters.base import resolve_device, resolve_dtype
from evalgpt.adapters.checkpoint import at_least_float32, check_state, load_tensors, unwrapped
from evalgpt.adapters.gpt.adapter import GPTAdapter
from evalgpt.adapters.gpt.model import GPTConfig, GPTModel
from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer
from evalgpt.adapters.hub import explained, hub_arguments
from evalgpt.core import EvaluationError, UsageError

__all__ = ["build_gpt2", "download"]


HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}
"""Attention heads of the four published sizes, by width, for a folder without config.json."""

FILES = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")

ASSUMED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
"""What GPTModel computes; a configuration that says otherwise is another model."""


def download(repository: str) -> Path:
    """The folder of a hub repository's configuration and safetensors, from the hub's cache or the network."""
    from huggingface_hub import snapshot_download

    with explained(repository):
        found = snapshot_download(
            repository, allow_patterns=["config.json", "model.safetensors"], **hub_arguments(repository, None)
        )
    return Path(found)


def build_gpt2(folder: Path, *, source: str, device: str, dtype: str) -> GPTAdapter:
    """The checkpoint in ``folder`` behind the Model interface.

    Raises:
        UsageError: the folder has no weights. EvaluationError: they cannot be read, or are not GPT-2's.
    """
    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    tokenizer = GPT2Tokenizer()
    state = _tensors(folder)
    config = _config(folder, state)
    with torch.device("meta"):
        module = GPTModel(config)
    converted = _converted(state, config.n_layers)
    # A mis-shaped out_head is a mis-shaped wte, which the checkpoint holds under that name alone.
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_state(str(folder), converted, expected, hint=lambda _: {})
    module.load_state_dict({name: at_least_float32(tensor) for name, tensor in converted.items()}, assign=True)
    if "lm_head.weight" not in state or torch.equal(state["lm_head.weight"], state["wte.weight"]):
        module.out_head.weight = module.tok_emb.weight
    return GPTAdapter("gpt2", module, tokenizer, {"source": source}, torch_device, torch_dtype)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The folder's tensors by GPT2Model's names, without the ``transformer.`` of GPT2LMHeadModel."""
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise UsageError(f"the folder {folder} holds no weights; looked for {', '.join(FILES)}")
    files = [found]
    if found.suffix == ".json":
        shards = _json(found).get("weight_map")
        if not isinstance(shards, dict):
            raise EvaluationError(f"{found} is not an index of shards: it has no weight_map")
        files = [folder / str(name) for name in sorted(set(shards.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise EvaluationError(f"{folder} lacks {', '.join(missing)}, which {found.name} names")
    tensors = {name: tensor for file in files for name, tensor in load_tensors(str(file)).items()}
    return {name.removeprefix("transformer."): tensor for name, tensor in unwrapped(tensors).items()}


def _json(path: Path) -> dict[str, object]:
    """The JSON object in ``path``.

    Raises:
        EvaluationError: it holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise EvaluationError(f"{path} is not a JSON object")
    return found


def _config(folder: Path, state: Mapping[str, Tensor]) -> GPTConfig:
    try:
        positions, width = state["wpe.weight"].shape
        vocabulary, _ = state["wte.weight"].shape
    except (KeyError, ValueError):
        raise EvaluationError(f"{folder} is not a GPT-2 checkpoint: no matrices wte.weight and wpe.weight") from None
    given = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    for key, values in ASSUMED.items():
        if given.get(key, values[0]) not in values:
            raise EvaluationError(
                f"{folder} is a variant of GPT-2 with {key} = {given[key]}; load it with hf:{folder} instead"
            )
    heads = given.get("n_head", HEADS.get(width))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UsageError(f"the folder {folder} needs a config.json with n_head that divides the width {width}")
    layers = 1 + max((int(match[1]) for name in state if (match := re.match(r"h\.(\d+)\.", name))), default=-1)
    if layers > len(state):
        raise EvaluationError(
            f"{folder} has {len(state)} tensors, too few for the {layers} layers that their names tell"
        )
    return GPTConfig(vocabulary, positions, width, heads, layers, drop_rate=0.1, qkv_bias=True)


def _converted(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The tensors under GPTModel's names; what GPT-2 lacks is left out, for check_state to name."""
    names = {"wte.weight": "tok_emb.weight", "wpe.weight": "pos_emb.weight"}
    names |= {"ln_f.weight": "final_norm.scale", "ln_f.bias": "final_norm.shift"}
    transposed = {}
    for i in range(layers):
        ours, theirs = f"trf_blocks.{i}", f"h.{i}"
        for k in (1, 2):
            names[f"{theirs}.ln_{k}.weight"] = f"{ours}.norm{k}.scale"
            names[f"{theirs}.ln_{k}.bias"] = f"{ours}.norm{k}.shift"
        for a, b in (("attn.c_proj", "att.out_proj"), ("mlp.c_fc", "ff.layers.0"), ("mlp.c_proj", "ff.layers.2")):
            transposed[f"{theirs}.{a}.weight"] = f"{ours}.{b}.weight"
            names[f"{theirs}.{a}.bias"] = f"{ours}.{b}.bias"
    result = {ours: state[theirs] for theirs, ours in names.items() if theirs in state}
    result |= {ours: state[theirs].T.contiguous() for theirs, ours in transposed.items() if theirs in state}
    for i in range(layers):
        for kind in ("weight", "bias"):
            fused = state.get(f"h.{i}.attn.c_attn.{kind}")
            if fused is None:
                continue
            if fused.shape[-1] % 3:
                raise EvaluationError(f"h.{i}.attn.c_attn.{kind} is not query, key and value side by side")
            for name, part in zip(("query", "key", "value"), fused.chunk(3, dim=-1), strict=True):
                result[f"trf_blocks.{i}.att.W_{name}.{kind}"] = (part.T if part.ndim == 2 else part).contiguous()
    result["out_head.weight"] = state.get("lm_head.weight", state["wte.weight"])
    fused_names = {f"h.{i}.attn.c_attn.{kind}" for i in range(layers) for kind in ("weight", "bias")}
    known = {*names, *transposed, *fused_names, "lm_head.weight"}
    buffers = (".attn.bias", ".attn.masked_bias")  # the causal mask, which older checkpoints kept
    return result | {name: tensor for name, tensor in state.items() if name not in known and not name.endswith(buffers)}
