"""Where a transformers model comes from, and loading it: every weight from the checkpoint, or one line on why not."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evalgpt.adapters.checkpoint import some
from evalgpt.adapters.hub import explained, hub_arguments
from evalgpt.adapters.huggingface.files import adapter_of, base_of, check_sizes, renames, tensor_sizes
from evalgpt.adapters.huggingface.gguf import GGUF
from evalgpt.adapters.huggingface.loading import quiet
from evalgpt.core import EvaluationError, UsageError

__all__ = ["Source", "check_folder", "load"]


BUFFERS = re.compile(r"(inv_freq|masked_bias|\.attn\.bias|\.attention\.bias|position_ids|num_batches_tracked)$")
"""Weights that some checkpoints keep and no model needs: masks and positions that are computed anew."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: a folder or a hub name, and what else transformers needs to load it."""

    path: str
    revision: str | None = None
    gguf: str | None = None
    trust_remote_code: bool = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``from_pretrained``; asks the hub whether it is there."""
        local = Path(self.path).is_dir()
        given: dict[str, Any] = {"local_files_only": True} if local else hub_arguments(self.path, self.revision)
        given["trust_remote_code"] = self.trust_remote_code
        if self.revision is not None:
            given["revision"] = self.revision
        if self.gguf is not None:
            given["gguf_file"] = self.gguf
        return given

    def config_path(self) -> str:
        """Where the configuration is: with its base model, for a folder that is a LoRA adapter alone."""
        return base_of(Path(self.path)) or self.path

    def tokenizer_path(self) -> str:
        """Where the tokenizer is: in the folder, else with the base model of the adapter that it is."""
        folder = Path(self.path)
        own = not folder.is_dir() or any(folder.glob("tokenizer*")) or any(folder.glob("*.model"))
        return self.path if own else base_of(folder) or self.path


def check_folder(source: Source) -> str | None:
    """Refuse a folder that holds no model; the kind of LoRA adapter that it holds, if any.

    Raises:
        UsageError: a file is not there. EvaluationError: an adapter that cannot be loaded.
    """
    folder = Path(source.path)
    if not folder.is_dir():
        return None
    adapter = None if source.gguf else adapter_of(folder)
    base = None if adapter is None else base_of(folder)
    if base is not None and not Path(base).is_dir():
        try:
            hub_arguments(base, None)
        except EvaluationError as error:
            raise EvaluationError(f"the adapter in {folder} is one of the model {base}: {error}") from None
    needed = source.gguf or "config.json"
    if not (folder / needed).is_file() and adapter is None:
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
        raise UsageError(f"the folder {folder} has no {needed}; it holds {held}")
    return adapter


def load(source: Source, arguments: dict[str, Any], dtype: torch.dtype | str) -> tuple[Any, list[str]]:
    """The model on the CPU, every weight of it from the checkpoint; and weights there that it has no use for.

    Raises:
        EvaluationError: it cannot be loaded, is an encoder-decoder, or the checkpoint lacks some of its weights.
    """
    from transformers import AutoModelForCausalLM

    path = source.path
    with quiet(path), explained(path):
        gguf = GGUF(Path(path) / source.gguf) if source.gguf and Path(path).is_dir() else None
        more = _from_gguf(gguf, path, arguments) if gguf else _from_config(source, arguments)
        if arguments.get("local_files_only"):
            more["adapter_kwargs"] = {"local_files_only": True}  # else peft's part asks the hub
        if dtype == torch.float64:
            more["experts_implementation"] = "eager"  # torch's grouped product of experts takes no float64
        module, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **arguments, **more
        )
        if gguf is not None:
            gguf.check_tensors(module)
    # transformers draws what does not fit at random and goes on; a loss of such a model means nothing.
    wrong = sorted(info["missing_keys"])
    if wrong:
        raise EvaluationError(f"the checkpoint {path} lacks weights: {some(wrong, 4)}")
    wrong = sorted(f"{key} {tuple(has)} instead of {tuple(needs)}" for key, has, needs in info["mismatched_keys"])
    if wrong:
        raise EvaluationError(f"the checkpoint {path} has weights of other shapes than its config: {some(wrong, 4)}")
    return module, sorted(key for key in info["unexpected_keys"] if not BUFFERS.search(key))


def _from_gguf(gguf: GGUF, path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """More arguments of ``from_pretrained``: the configuration, where transformers would leave out its scaling."""
    from transformers import AutoConfig

    gguf.check_metadata(functools.cache(lambda: AutoConfig.from_pretrained(path, **arguments)))
    positions = gguf.positions()
    if positions is None:
        return {}
    config = AutoConfig.from_pretrained(path, **arguments)
    config.rope_parameters = positions
    return {"config": config}


def _from_config(source: Source, arguments: dict[str, Any]) -> dict[str, Any]:
    """More arguments of ``from_pretrained``: how to rename weights whose names a wrapper changed.

    Raises:
        EvaluationError: an encoder with a decoder, or sizes that are not the checkpoint's.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(source.config_path(), **arguments)
    if config.is_encoder_decoder:  # of some, the decoder alone would load, and would miss its encoder
        raise EvaluationError(f"{source.path} is not a causal language model but an encoder with a decoder")
    folder = Path(source.path)
    if not folder.is_dir():
        return {}
    sizes = tensor_sizes(folder)
    check_sizes(source.path, config, sizes)
    kind = type(config)
    own = MODEL_FOR_CAUSAL_LM_MAPPING[kind].base_model_prefix if kind in MODEL_FOR_CAUSAL_LM_MAPPING else "model"
    mapping = renames(sizes, f"{own}.")
    return {"key_mapping": mapping} if mapping else {}
