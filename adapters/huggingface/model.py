"""A transformers causal language model behind evalgpt's Model interface.

The fast path runs the body alone and the tiled head on the rows that are scored. Which head that is (a bias, a scale,
a soft cap) is read from the model, and what it gives is compared with the model's own logits once; where they differ,
the plain path with full logits runs and the report says why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evalgpt.adapters.base import TorchModel, fingerprint, resolve_device, resolve_dtype, versions
from evalgpt.adapters.checkpoint import some
from evalgpt.adapters.hub import explained
from evalgpt.adapters.huggingface.loading import quiet, replace_activations
from evalgpt.adapters.huggingface.positions import context_of
from evalgpt.adapters.huggingface.rope import Fresh, depends_on_length
from evalgpt.adapters.huggingface.source import Source, check_folder, load
from evalgpt.adapters.huggingface.tokenizer import HFTokenizer
from evalgpt.adapters.kernels.products import inference
from evalgpt.adapters.kernels.tiled import Head
from evalgpt.adapters.kernels.tree import build_prefix_tree
from evalgpt.core import Encoding, EvaluationError

__all__ = ["HFModel"]


TILED = "tiled head"

CHECKED = 64
"""How many rows are compared with the model's own logits."""

AGREEMENT = 4e-6
"""Body and head are the model if no logit is further from its own than this share of the largest one (or four units
in the last place of a coarser dtype)."""

SAME_STATES = 1e-5
"""A tree of texts gives the same states if none is further from the model's own than this share of the largest."""


class HFModel(TorchModel):
    """Any AutoModelForCausalLM, in eval mode, without a key-value cache."""

    uses_onednn_matmul = True

    def __init__(
        self, source: Source, *, name: str, context_length: int | None, tiled: bool, device: str, dtype: str
    ) -> None:
        self.torch_device = resolve_device(device)
        torch_dtype = "auto" if dtype == "auto" else resolve_dtype(dtype)
        adapter = check_folder(source)
        arguments = source.arguments()
        self._tokenizer = HFTokenizer(source.tokenizer_path(), arguments)
        self.module, unused = load(source, arguments, torch_dtype)
        replaced = replace_activations(self.module)
        config = self.module.config.get_text_config(decoder=True)
        self.trained = True
        self._own_code = not source.trust_remote_code and type(self) is HFModel  # strangers' code has no hash
        self.fingerprint = fingerprint(self.module.state_dict().items(), extra=_architecture(config))
        self.module.eval().to(self.torch_device)
        self.name = name
        # A stranger's code may do anything with the length of a text.
        self.equal_lengths = source.trust_remote_code or depends_on_length(config)
        self._fresh = Fresh(self.module) if self.equal_lengths else None  # before anything is fed
        self.context_length, warnings = context_of(self.module, config, context_length)
        if unused:
            warnings.append(
                f"{len(unused)} weights of the checkpoint are not used by this model: {some(unused, 4)}; does its "
                f"configuration leave something out?"
            )
        with quiet(source.path), explained(source.path):
            embeddings = self.module.get_input_embeddings().weight.shape[0]
            self.vocab_size = self._check_causal(embeddings)
            self._head = _head(self.module, config, self.vocab_size)
        warnings += self._tokenizer.check(min(self.vocab_size, embeddings))
        self.prefix_id, self.adds_bos = self._tokenizer.prefix_id, self._tokenizer.adds_bos
        self.eos_ids = self._tokenizer.eos_ids(getattr(self.module, "generation_config", None))
        self.unused_ids = self._tokenizer.unused_ids(self.vocab_size)
        self.tokenizer = self._tokenizer.identity
        self.device = str(self.torch_device)
        self.dtype = str(self.module.dtype).removeprefix("torch.")
        self._asked = f"hf tiled={tiled} matmul={self.runtime.get('matmul_backend')}"
        self._asked += " equal lengths" if self.equal_lengths else ""  # earlier versions kept wrong scores of these
        self._scoring = "full logits: asked for with tiled=false"
        self._facts = {**_kept(config), "architecture": type(self.module).__name__, "path": source.path}
        if adapter:
            self._facts["adapter"] = adapter
        if unused:
            self._facts["unused_weights"] = some(unused, 4)
        if replaced:
            self._facts["replaced_activations"] = replaced
        self.warnings = warnings
        self._versions = versions(self.module.parameters())
        if tiled:  # on ids that are always the same, and so is what follows
            self._compare(torch.arange(min(CHECKED, self.context_length), device=self.torch_device) % self.vocab_size)
        self._sharing = self._scoring == TILED and self._can_share()

    @property
    def cache_id(self) -> str | None:  # type: ignore[override]
        """None for code from a hub or a subclass, and once a weight was changed in this process."""
        own = self._own_code and versions(self.module.parameters()) == self._versions
        return self._asked if own else None

    @property
    def shares_prefixes(self) -> bool:  # type: ignore[override]
        """Whether the model reads a tree of texts as it reads each of them."""
        return self._sharing

    @property
    def config(self) -> dict[str, object]:  # type: ignore[override]
        """The configuration, which prefix is used, and how the scores were computed."""
        return {**self._facts, "prefix": self._tokenizer.prefix_kind, "scoring": self._scoring}

    def encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def hidden(self, ids: Tensor) -> Tensor:
        if self._fresh is not None:
            self._fresh()
        states: Tensor = self.module.base_model(input_ids=ids, use_cache=False, return_dict=True)[0]
        return states

    def hidden_tree(self, ids: Tensor, depth: Tensor, seen: Tensor) -> Tensor | None:
        return self._of_tree(ids, depth, seen) if self._sharing and len(depth) and depth.max() < self._sight else None

    def _of_tree(self, ids: Tensor, depth: Tensor, seen: Tensor) -> Tensor:
        dtype = self.module.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
        states: Tensor = self.module.base_model(
            input_ids=ids[None],
            position_ids=depth[None],
            attention_mask=mask[None, None],
            use_cache=False,
            return_dict=True,
        )[0]
        return states[0]

    @property
    def _sight(self) -> int:
        """How far back a position sees: a mask that is given replaces the model's own, sliding windows with it."""
        sliding = getattr(self.module.config.get_text_config(decoder=True), "sliding_window", None)
        return min(sliding or self.context_length, self.context_length)

    def _can_share(self) -> bool:
        """Whether states of a tree are the model's own, on ids that are always the same.

        Not where position encodings depend on how long a text is: those of the tree would be another's.
        """
        if self.equal_lengths:
            return False
        # GPT-Neo keeps a mask of its own, position by position, and lays it over the one that is given.
        if any(b.ndim > 1 and b.shape[-1] == b.shape[-2] > 1 for b in self.module.buffers()):
            return False
        length = min(3 * CHECKED // 2, self._sight)
        ids = torch.arange(3 * length).view(3, length) * 7 % self.vocab_size
        ids[1, : 2 * length // 3], ids[2, : length // 3] = ids[0, : 2 * length // 3], ids[0, : length // 3]
        tree = build_prefix_tree(ids.tolist())
        if tree is None:
            return False
        try:
            with inference(self.torch_device):
                parts = (part.to(self.torch_device) for part in (tree.ids, tree.depth, tree.seen))
                states, plain = self._of_tree(*parts), self.hidden(ids.to(self.torch_device))
        except Exception:  # whatever a model raises that takes no mask of this kind
            return False
        nodes = torch.stack(tree.paths).to(self.torch_device)
        allowed = max(SAME_STATES, 16 * torch.finfo(plain.dtype).eps) * float(plain.abs().max())
        return bool((states[nodes] - plain).abs().max() <= allowed)

    def head(self) -> Head:
        if self._head is None:
            raise RuntimeError(f"{self.name} does not show its output matrix")  # plain is True then
        return self._head

    def logits(self, ids: Tensor) -> Tensor:
        if self._fresh is not None:
            self._fresh()
        logits: Tensor = self.module(input_ids=ids, use_cache=False, return_dict=True).logits
        return logits

    @property
    def plain(self) -> bool:
        """Whether scores come from full logits, because body and head are not the whole of the model."""
        return self._scoring != TILED

    def _compare(self, ids: Tensor) -> None:
        """Decide how to score: by the tiled head, unless it differs from the model's own logits on ``ids`` [T]."""
        head = self._head
        if head is None:
            self._scoring = "full logits: the model does not show its output matrix"
            return
        with inference(self.torch_device):
            own = self.logits(ids[None])[0]
            wide = torch.float64 if own.dtype == torch.float64 else torch.float32
            try:
                ours = (self.hidden(ids[None])[0] @ head.weight.T).to(wide)
                ours = head.finish(ours, None if head.bias is None else head.bias.to(wide))
                # Not the own logits' size: a model that forbids tokens holds an infinity there.
                allowed = max(AGREEMENT, 4 * torch.finfo(head.weight.dtype).eps) * max(float(ours.abs().max()), 1.0)
                worst = float((own.to(wide) - ours).abs().max())
            except Exception as error:  # whatever a body raises that wants more than ids
                self._scoring = f"full logits: the body alone does not run ({type(error).__name__})"
                return
        differ = f"full logits: body and head differ from the model's own logits by {worst:.2g}"
        self._scoring = TILED if worst <= allowed else differ

    def _check_causal(self, embeddings: int) -> int:
        """Refuse a model whose earlier states see a later token; the number of logits.

        Raises:
            EvaluationError: it does; its losses would be those of a model that has read the answer.
        """
        ids = torch.arange(2, 10, device=self.torch_device)[None] % embeddings
        other = ids.clone()
        other[0, 4:] = 1
        with inference(self.torch_device):
            before, after = self.logits(ids)[0, :4].float(), self.logits(other)[0, :4].float()
        # Exact but for rounding: an untrained encoder leaks a fiftieth, a mixture of experts shuffles the last place.
        allowed = max(1e-3, torch.finfo(self.module.dtype).eps)
        if (before - after).abs().max() > allowed * before.std().clamp_min(1e-6):
            raise EvaluationError(
                f"{self._tokenizer.path} is not a causal language model: changing a token changes the predictions "
                f"before it (an encoder, or a decoder with is_decoder off)"
            )
        return before.shape[1]


def _head(module: Any, config: Any, vocabulary: int) -> Head | None:
    """The head as the configuration describes it, None without its matrix; :meth:`HFModel._compare` finds out whether
    that is all."""
    linear = module.get_output_embeddings()
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or len(weight) != vocabulary:
        return None
    scale = _number(config, "logit_scale", 1.0) / _number(config, "logits_scaling", 1.0)
    return Head(weight, getattr(linear, "bias", None), scale, _number(config, "final_logit_softcapping", 0.0) or None)


def _number(config: Any, key: str, default: float) -> float:
    value = getattr(config, key, None)
    return float(value) if isinstance(value, (int, float)) else default


def _kept(config: Any) -> dict[str, object]:
    """The configuration without what does not change a score."""
    left_out = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config", "use_cache"}
    kept: dict[str, object] = json.loads(config.to_json_string(use_diff=True))
    return {key: value for key, value in kept.items() if key not in left_out}


def _architecture(config: Any) -> str:
    return json.dumps(_kept(config), sort_keys=True)
