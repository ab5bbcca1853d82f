"""What a local model folder holds, read before transformers loads it: LoRA adapters, shards, wrapped names, sizes."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalgpt.adapters.checkpoint import unwrapped
from evalgpt.core import EvaluationError

__all__ = ["adapter_of", "base_of", "check_sizes", "renames", "tensor_sizes"]


ADAPTER = "adapter_config.json"

INDEXES = {"model.safetensors.index.json": "safetensors", "pytorch_model.bin.index.json": "bin"}


def renames(names: Mapping[str, int], own: str) -> dict[str, str] | None:
    """transformers' ``key_mapping`` that takes wrappers' marks off every one of ``names``; None where there are none.

    ``own`` is how the model's own names begin, such as ``model.`` of a Llama.
    """
    kept = {name: name for name in names}
    found = {before: after for after, before in unwrapped(kept, own).items() if after != before}
    return {f"^{re.escape(before)}$": after for before, after in found.items()} or None


def adapter_of(folder: Path) -> str | None:
    """What a report says of the LoRA adapter in ``folder``; None where it holds none.

    Raises:
        EvaluationError: there is one, and peft is not installed or its base model is not here.
    """
    if not (folder / ADAPTER).is_file():
        return None
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8-sig"))
        kind, base = str(config.get("peft_type", "adapter")), config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise EvaluationError(
            f"{folder / ADAPTER} is not readable JSON: {' '.join(str(error).split())[:200]}"
        ) from None
    if importlib.util.find_spec("peft") is None:
        raise EvaluationError(
            f"{folder} holds a {kind} adapter ({ADAPTER}), which needs peft; install evalgpt's extra lora "
            f"(pip install 'evalgpt[lora]'), or merge the adapter into its model"
        )
    if not (folder / "config.json").is_file() and not base:
        raise EvaluationError(f"{folder} holds a {kind} adapter alone, and {ADAPTER} names no base_model_name_or_path")
    return kind


def base_of(folder: Path) -> str | None:
    """The base model that the adapter in ``folder`` names, where it is an adapter alone; else None."""
    if (folder / "config.json").is_file() or not (folder / ADAPTER).is_file():
        return None
    base = json.loads((folder / ADAPTER).read_text(encoding="utf-8-sig")).get("base_model_name_or_path")
    return str(base) if base else None


def tensor_sizes(folder: Path) -> dict[str, int]:
    """The tensors of the safetensors files in ``folder`` with how many numbers each has, by their headers alone; empty
    for other files.

    Raises:
        EvaluationError: shards without their index, or an index whose shards are not all here.
    """
    files = sorted(folder.glob("*.safetensors"))
    for index in INDEXES:
        if (folder / index).is_file():
            files = [folder / name for name in _shards(folder / index)] if index.startswith("model") else []
            break
    else:
        shards = [*folder.glob("model-*-of-*.safetensors"), *folder.glob("pytorch_model-*-of-*.bin")]
        if shards and not any((folder / whole).is_file() for whole in ("model.safetensors", "pytorch_model.bin")):
            kind = "model.safetensors" if shards[0].suffix == ".safetensors" else "pytorch_model.bin"
            raise EvaluationError(
                f"{folder} holds {len(shards)} shards without their index: put {kind}.index.json there, which says "
                f"which tensor is in which"
            )
        files = [path for path in files if path.name == "model.safetensors"]
    sizes: dict[str, int] = {}
    for path in files:
        sizes |= _header(path)
    return sizes


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvaluationError(f"{index} is no index of shards ({type(error).__name__})") from None
    gone = [name for name in names if not (index.parent / str(name)).is_file()]
    if gone:
        raise EvaluationError(f"{index.parent} lacks {len(gone)} of {len(names)} shards, as {gone[0]}")
    return [str(name) for name in names]


def _header(path: Path) -> dict[str, int]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as opened:
            return {name: math.prod(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except Exception:  # what is wrong with the file is told when its weights are read
        return {}


def check_sizes(path: str, config: Any, sizes: Mapping[str, int]) -> None:
    """Refuse a configuration that is larger than its checkpoint, before memory is taken for it.

    Raises:
        EvaluationError: more layers than tensors, or an embedding larger than all of the weights.
    """
    if not sizes:
        return
    layers, width, words = (getattr(config, key, None) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    if isinstance(layers, int) and layers > len(sizes):
        raise EvaluationError(
            f"{path}: config.json has {layers} layers, and the checkpoint {len(sizes)} tensors in all"
        )
    if isinstance(width, int) and isinstance(words, int):
        total = sum(sizes.values())
        if width > total or width * words > max(total, 1) * 64:
            raise EvaluationError(
                f"{path}: config.json has an embedding of {words} x {width}, and the checkpoint {total} numbers in all"
            )
