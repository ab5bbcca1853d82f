"""Reading weights without running code: safetensors, or torch's own format with ``weights_only=True``."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from evalgpt.core import EvaluationError, UsageError

__all__ = ["CONFIG_KEY", "STATE_PREFIX", "at_least_float32", "check_state", "load_tensors", "some", "unwrapped"]


CONFIG_KEY = "evalgpt.model"
"""Where a checkpoint of ``evalgpt train`` keeps the fields of its model, as JSON in the safetensors metadata."""

STATE_PREFIX = "training."
"""How the tensors of such a checkpoint begin that are no weights: the optimiser's and the random state."""

WRAPPERS = ("model_state_dict", "state_dict", "model")
"""Keys under which training scripts keep the weights beside the optimizer's state."""


def load_tensors(path: str) -> dict[str, Tensor]:
    """The tensors in ``path`` by name, on the CPU.

    Raises:
        UsageError: there is no such file. EvaluationError: it does not hold weights.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"there is no weights file {path}")
    found = _safetensors(file) if file.suffix.lower() == ".safetensors" else _torch(file)
    if isinstance(found, Mapping):
        for key in WRAPPERS:
            if isinstance(found.get(key), Mapping):
                found = found[key]
                break
    if not isinstance(found, Mapping) or not found or not all(isinstance(t, Tensor) for t in found.values()):
        raise EvaluationError(f"{path} does not hold weights: expected tensors by name, as state_dict() gives them")
    return {str(name): tensor for name, tensor in found.items()}


def _safetensors(file: Path) -> object:
    import safetensors

    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names if not name.startswith(STATE_PREFIX)}
    except (safetensors.SafetensorError, OSError) as error:
        raise EvaluationError(f"{file} is not a readable safetensors file: {error}") from error


def _torch(file: Path) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of what it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EvaluationError(
            f"{file} is not a file of weights alone (torch.load with weights_only=True refuses it); "
            f"save it again with torch.save(model.state_dict(), FILE) or as safetensors"
        ) from error
    except Exception as error:  # bytes that are no checkpoint make torch.load raise almost anything
        raise EvaluationError(
            f"{file} is not a readable torch checkpoint ({type(error).__name__}: {str(error)[:100]})"
        ) from error


def check_state(
    path: str,
    state: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    hint: Callable[[Mapping[str, Tensor]], Mapping[str, object]],
) -> None:
    """Compare names and shapes, and say in one line what does not fit and which fields would.

    Raises:
        EvaluationError: a tensor is missing, unexpected or of another shape.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shaped = [
        f"{name} is {_shape(state[name].shape)}, expected {_shape(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    odd = [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')} {str(tensor.layout).removeprefix('torch.')}"
        for name, tensor in state.items()
        if name in expected and not (tensor.is_floating_point() and tensor.layout == torch.strided)
    ]
    parts = [
        f"{kind}: {some(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("mis-shaped", shaped),
            ("not dense floating-point", odd),
        )
        if names
    ]
    if parts:
        fields = ",".join(f"{key}={value}" for key, value in hint(state).items())
        advice = f"by its shapes the checkpoint has {fields}; " if fields else ""
        raise EvaluationError(f"{path} does not fit the model: {advice}{'; '.join(parts)}")


MARKS = re.compile(r"(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, Lightning Fabric, FSDP and activation checkpointing put into names, at any place."""

PREFIXES = ("module.", "model.")
"""What data parallelism, and modules that keep the model as their ``model``, put before every name."""

Named = TypeVar("Named")


def unwrapped(state: Mapping[str, Named], own: str = "") -> dict[str, Named]:
    """``state`` by the model's own names: without what wrappers put before or into them, once or several times.

    ``own`` is how the model's own names begin where that looks like a wrapper, as ``model.`` does for a Llama.
    """
    found = {MARKS.sub("", name): value for name, value in state.items()}
    while prefix := next((p for p in PREFIXES if found and all(name.startswith(p) for name in found)), None):
        shorter = {name.removeprefix(prefix): value for name, value in found.items()}
        if prefix == own and not any(name.startswith((own, "lm_head.")) for name in shorter):
            break
        found = shorter
    return found


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` as it is in float32 or float64, widened from half precision."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def some(names: Sequence[str], most: int = 6) -> str:
    """The first of ``names``, at ``most`` so many, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
