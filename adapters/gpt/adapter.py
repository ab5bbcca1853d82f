"""The course's GPTModel behind evalgpt's Model interface: what ``scratch`` and ``gpt2`` both build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from evalgpt.adapters.base import TorchModel, fingerprint, versions
from evalgpt.adapters.gpt.model import GPTModel
from evalgpt.adapters.gpt.tokenizer import END_OF_TEXT, GPT2Tokenizer
from evalgpt.adapters.gpt.training import TorchTrainer
from evalgpt.core import CutsText, Encoding, Optimisation, Trainable, Trainer

__all__ = ["GPTAdapter"]


class GPTAdapter(TorchModel, CutsText, Trainable):
    """A GPTModel with GPT-2's tokenizer, in eval mode, scored through the tiled head."""

    shares_prefixes = True
    uses_onednn_matmul = True

    drawn: Tensor | None = None
    """The state of torch's generator after it drew the weights; None where they were loaded."""

    def __init__(
        self,
        name: str,
        module: GPTModel,
        tokenizer: GPT2Tokenizer,
        source: Mapping[str, object],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        config = module.config
        self.name = name
        self.module = module
        self.torch_device = device
        # Of the weights as they came, before they are moved and rounded: the same for every device and dtype.
        self._fingerprint = self._hash()
        module.eval().to(device=device, dtype=dtype)
        self._versions = self._hashed = versions(module.parameters())
        self._tokenizer = tokenizer
        self.context_length = config.context_length
        self.vocab_size = config.vocab_size
        self.trained = "seed" not in source
        self.prefix_id = END_OF_TEXT if config.vocab_size > END_OF_TEXT else None
        self.eos_ids = () if self.prefix_id is None else (END_OF_TEXT,)
        self.unused_ids = range(END_OF_TEXT + 1, config.vocab_size)
        self.config = {**asdict(config), **source, "parameters": sum(p.numel() for p in module.parameters())}
        self.tokenizer = tokenizer.identity
        self.device = str(device)
        self.dtype = str(dtype).removeprefix("torch.")

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Taken again once a weight was changed in this process, then of the weights as they are here."""
        now = versions(self.module.parameters())
        if now != self._hashed:
            self._fingerprint, self._hashed = self._hash(), now
        return self._fingerprint

    def _hash(self) -> str:
        return fingerprint(self.module.state_dict().items(), extra=f"GPTModel n_heads={self.module.config.n_heads}")

    @property
    def cache_id(self) -> str | None:  # type: ignore[override]
        """None for a subclass, whose code this does not know, and once a weight was changed in this process."""
        own = type(self) is GPTAdapter and versions(self.module.parameters()) == self._versions
        return f"gpt matmul={self.runtime.get('matmul_backend')}" if own else None

    def encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(text)

    def cut(self, text: str) -> int:
        return self._tokenizer.cut(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def hidden(self, ids: Tensor) -> Tensor:
        return self.module.hidden(ids)

    def hidden_tree(self, ids: Tensor, depth: Tensor, seen: Tensor) -> Tensor:
        return self.module.hidden_tree(ids, depth, seen)

    def unembedding(self) -> Tensor:
        return self.module.out_head.weight

    def weights_spec(self, path: str) -> str:
        return f"scratch:weights={path}"

    def trainer(self, how: Optimisation) -> Trainer:
        return TorchTrainer(self, self.module, how, asdict(self.module.config), self.drawn)
