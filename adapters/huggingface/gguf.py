"""What a GGUF file says and transformers does not read: applied where that is exact, else refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evalgpt.core import EvaluationError

__all__ = ["GGUF"]


HARMLESS = (
    "vocab_size",
    "context_length",
    "tensor_data_layout",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)
"""Keys that change no score: they repeat others, or belong to a scaling whose type is refused or applied by itself."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "rope.scaling.type": ("none", ""),
    "rope.scaling.factor": (1.0, 0.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scale_linear": (1.0,),
    "attention.causal": (True,),
    "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "logit_scale": (1.0, 0.0),
    "residual_scale": (1.0, 0.0),
    "embedding_scale": (1.0, 0.0),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.sliding_window": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "use_parallel_residual": (True,),
    "pooling_type": (0,),
}
"""The value of each key at which it says nothing."""

FIELDS: dict[str, tuple[str, ...]] = {
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "use_parallel_residual": ("use_parallel_residual",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"),
    "rope.freq_base": ("rope_parameters.full_attention.rope_theta", "rope_parameters.rope_theta"),
    "rope.freq_base_swa": ("rope_parameters.sliding_attention.rope_theta",),
}
"""Fields of a configuration whose default a key may repeat though transformers does not read it, as Gemma 2's caps."""

LINEAR = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures whose linear scaling of positions transformers computes as llama.cpp does."""

ALL_ONES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that divide the rotary frequencies; without effect where they hold ones."""


class GGUF:
    """A GGUF file's metadata and the names of its tensors.

    Raises:
        EvaluationError: it cannot be read, or says what transformers would drop.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        self.reader = GGUFReader(path)
        fields = self.reader.fields
        self.values = {name: field.contents() for name, field in fields.items() if not name.startswith("tokenizer.")}
        self.architecture = str(self.values.get("general.architecture", ""))
        if self.values.get("general.type") == "adapter":
            raise EvaluationError(f"{path} is a LoRA adapter in GGUF; merge it into its model first")

    def positions(self) -> dict[str, object] | None:
        """The rotary parameters that transformers must be told: those of linear scaling. None where it needs none."""
        kind = self._own("rope.scaling.type")
        factor = self._own("rope.scaling.factor") or self._own("rope.scale_linear")
        number = isinstance(factor, (int, float)) and factor not in (0, 1)
        if kind != "linear" or not number or self.architecture not in LINEAR:
            return None
        base = float(self._own("rope.freq_base") or 10000.0)
        return {"rope_type": "linear", "factor": float(factor), "rope_theta": base}

    def check_metadata(self, config: Callable[[], Any]) -> None:
        """Refuse a key of the architecture that is not read, does not say the neutral value, and is not applied.

        ``config`` makes the configuration that transformers takes from this file; called only where a key needs it.

        Raises:
            EvaluationError: naming the keys with their values.
        """
        dropped = [f"{self.architecture}.{key} = {_short(value)}" for key, value in self._dropped(config)]
        if dropped:
            raise EvaluationError(
                f"{self.path}: transformers does not read {', '.join(dropped[:4])} of this GGUF file, and its scores "
                f"would be another model's; convert the model to safetensors, or remove the key if it has no effect"
            )

    def check_tensors(self, module: Any) -> None:
        """Refuse a tensor that no weight of ``module`` was read from.

        Raises:
            EvaluationError: naming the tensors.
        """
        unread = [name for name in self._unread(module) if not self._ones(name)]
        if unread:
            raise EvaluationError(
                f"{self.path}: transformers does not read the tensors {', '.join(unread[:4])} of this GGUF file"
                f"{f' and {len(unread) - 4} more' if len(unread) > 4 else ''}, and its scores would be another model's"
            )

    def _own(self, key: str) -> Any:
        return self.values.get(f"{self.architecture}.{key}")

    def _dropped(self, config: Callable[[], Any]) -> Iterator[tuple[str, object]]:
        from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

        section = self.architecture.replace("-", "_")
        known: dict[str, str | None] = {}
        for name in (section, section.replace("moe", "_moe"), self.architecture):
            known |= GGUF_CONFIG_MAPPING.get(name, {})
        applied = self.positions() is not None or self.architecture == "gpt-oss"  # its scaling is read apart
        for name, value in self.values.items():
            key = name.removeprefix(f"{self.architecture}.")
            if key == name or known.get(key) is not None or key in HARMLESS:
                continue
            if key.startswith("rope.scal") and applied:
                continue
            if self._repeats(key, value, key in known):
                continue
            default = _field(config(), FIELDS[key]) if key in FIELDS else _NONE
            # Zero stands for none; where the configuration has the field, no other value is neutral.
            if value not in NEUTRAL.get(key, ()) if default is _NONE else not _alike(value or None, default or None):
                yield key, value

    def _repeats(self, key: str, value: object, mapped: bool) -> bool:
        """Whether ``value`` is what transformers takes without being told: head sizes that follow from the width."""
        heads, width = self._own("attention.head_count"), self._own("embedding_length")
        if key == "attention.head_count_kv":
            return bool(value == heads)
        if key == "feed_forward_length" and width:
            return bool(value == 4 * width)  # Bloom's, which knows no other
        if key in ("attention.key_length", "attention.value_length", "rope.dimension_count") and heads and width:
            size = self._own("attention.key_length") if key == "rope.dimension_count" else None
            return bool(value == (size or width // heads))
        if key == "attention.sliding_window":
            return isinstance(value, int) and value >= (self._own("context_length") or 0)
        return mapped

    def _unread(self, module: Any) -> list[str]:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        make = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)
        read = get_gguf_hf_weights_map(module, make(config=module.config.to_dict()))
        names = [tensor.name for tensor in self.reader.tensors if tensor.name not in read]
        # Processors of experts and the like read tensors by names of their own; of those, missing weights tell.
        own = {"Qwen2Moe", "GptOss", "MiniMaxM2", "T5", "GPT2", "Lfm2", "Mamba"}
        renames = make.__name__.removesuffix("TensorProcessor") in own
        return [name for name in names if name in ALL_ONES or not renames]

    def _ones(self, name: str) -> bool:
        if name not in ALL_ONES:
            return False
        from gguf import dequantize

        tensor = next(t for t in self.reader.tensors if t.name == name)
        return bool(np.all(dequantize(tensor.data, tensor.tensor_type) == 1))


_NONE = object()


def _field(config: Any, paths: tuple[str, ...]) -> Any:
    """The first of ``paths``, names joined by dots, that ``config`` has; ``_NONE`` where it has none of them."""
    for path in paths:
        found = config
        for name in path.split("."):
            found = found.get(name, _NONE) if isinstance(found, dict) else getattr(found, name, _NONE)
        if found is not _NONE:
            return found
    return _NONE


def _alike(value: Any, other: Any) -> bool:
    """Whether both are one value; a GGUF file keeps numbers in single precision."""
    if isinstance(value, float) and isinstance(other, (int, float)):
        return bool(np.float32(value) == np.float32(other))
    return bool(value == other)


def _short(value: object) -> str:
    return str(value) if len(str(value)) <= 40 else f"{str(value)[:37]}..."
