"""The weights of ``scratch``: drawn at random as the course draws them, or a reader's own checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evalgpt.adapters.base import resolve_device, resolve_dtype
from evalgpt.adapters.checkpoint import at_least_float32, check_state, load_tensors, unwrapped
from evalgpt.adapters.gpt.adapter import GPTAdapter
from evalgpt.adapters.gpt.model import GPTConfig, GPTModel
from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer
from evalgpt.core import EvaluationError

__all__ = ["build_scratch"]


def build_scratch(fields: Mapping[str, Any], *, seed: int, weights: str | None, device: str, dtype: str) -> GPTAdapter:
    """A GPTModel of the given fields behind the Model interface.

    Raises:
        UsageError: no such device, dtype or file. EvaluationError: the checkpoint does not fit or cannot be read.
    """
    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    tokenizer = GPT2Tokenizer()  # before the weights: if its tables are missing, fail at once
    config = GPTConfig(**fields)
    if weights is not None:
        return GPTAdapter(
            "scratch", _loaded(config, weights), tokenizer, {"weights": weights}, torch_device, torch_dtype
        )
    module, drawn = _random(config, seed)
    model = GPTAdapter("scratch", module, tokenizer, {"seed": seed}, torch_device, torch_dtype)
    model.drawn = drawn
    return model


def _random(config: GPTConfig, seed: int) -> tuple[GPTModel, Tensor]:
    """The weights that ``torch.manual_seed(seed); GPTModel(config)`` draws, the caller's generator left alone; and the
    state of the generator after them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTModel(config), torch.get_rng_state()


def _loaded(config: GPTConfig, path: str) -> GPTModel:
    named = unwrapped(load_tensors(path))
    state = {name: tensor for name, tensor in named.items() if not name.endswith("att.mask")}  # the course's, no weight
    if config.n_layers > len(state):
        raise EvaluationError(f"{path} has {len(state)} tensors, too few for a model of {config.n_layers} layers")
    with torch.device("meta"):
        module = GPTModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_state(path, state, expected, hint=_hint)
    module.load_state_dict({name: at_least_float32(tensor) for name, tensor in state.items()}, assign=True)
    return module


def _hint(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The fields that a checkpoint of a GPTModel gives away by its shapes.

    The number of heads is not among them, and a wrong one that divides emb_dim goes unnoticed.
    """
    found: dict[str, object] = {}
    if (embedding := state.get("tok_emb.weight")) is not None and embedding.ndim == 2:
        found |= {"vocab_size": embedding.shape[0], "emb_dim": embedding.shape[1]}
    if (positions := state.get("pos_emb.weight")) is not None and positions.ndim == 2:
        found["context_length"] = positions.shape[0]
    blocks = {name.split(".")[1] for name in state if name.startswith("trf_blocks.")}
    if blocks:
        found["n_layers"] = len(blocks)
        found["qkv_bias"] = str("trf_blocks.0.att.W_query.bias" in state).lower()
    return found
