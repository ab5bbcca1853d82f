"""What ``scratch`` builds: the course's GPTModel behind evalgpt's Model interface, and its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from evalgpt.adapters.base import TorchModel, fingerprint, resolve_device, resolve_dtype, runtime_facts
from evalgpt.adapters.checkpoint import check_state, load_tensors
from evalgpt.adapters.gpt import GPTConfig, GPTModel
from evalgpt.adapters.gpt2_bpe import END_OF_TEXT, GPT2Tokenizer
from evalgpt.core import Encoding

__all__ = ["ScratchModel"]


class ScratchModel(TorchModel):
    """A GPTModel with GPT-2's tokenizer, in eval mode, scored through the tiled head."""

    def __init__(self, fields: Mapping[str, Any], *, seed: int, weights: str | None, device: str, dtype: str) -> None:
        config = GPTConfig(**fields)
        self.torch_device = resolve_device(device)
        torch_dtype = resolve_dtype(dtype)
        self._tokenizer = GPT2Tokenizer()  # before the weights: if its tables are missing, fail at once
        self.module = _random(config, seed) if weights is None else _loaded(config, weights)
        self.fingerprint = fingerprint(self.module.state_dict().items(), extra=f"GPTModel n_heads={config.n_heads}")
        self.module.eval().to(device=self.torch_device, dtype=torch_dtype)
        self.name = "scratch"
        self.context_length = config.context_length
        self.vocab_size = config.vocab_size
        self.prefix_id = END_OF_TEXT if config.vocab_size > END_OF_TEXT else None
        source = {"seed": seed} if weights is None else {"weights": weights}
        self.config = {**asdict(config), **source, "parameters": sum(p.numel() for p in self.module.parameters())}
        self.tokenizer = self._tokenizer.identity
        self.device = str(self.torch_device)
        self.dtype = dtype
        self.runtime = runtime_facts(self.torch_device)

    def encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def hidden(self, ids: Tensor) -> Tensor:
        return self.module.hidden(ids)

    def unembedding(self) -> Tensor:
        return self.module.out_head.weight


def _random(config: GPTConfig, seed: int) -> GPTModel:
    """The weights that ``torch.manual_seed(seed); GPTModel(config)`` draws, the caller's generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTModel(config)


def _loaded(config: GPTConfig, path: str) -> GPTModel:
    state = {name: tensor for name, tensor in load_tensors(path).items() if not name.endswith("att.mask")}
    with torch.device("meta"):
        module = GPTModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_state(path, state, expected, hint=_hint)
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return module


def _hint(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The fields that a checkpoint of a GPTModel gives away by its shapes; the number of heads is not among them."""
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
