"""Position encodings that depend on how long a text is.

Most models give a position the same encoding in every text. LongRoPE and dynamic NTK scaling choose their frequencies
by the longest text of a batch; dynamic NTK also keeps those of the longest text so far. A window's loss then depends on
its batch and on earlier calls, unless windows of one length are scored together from a fresh state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Fresh", "depends_on_length", "rope_types"]


BY_POSITION = {"default", "linear", "llama3", "yarn", "proportional"}
"""The rotary encodings of transformers whose frequencies are fixed when the model is built
(transformers.modeling_rope_utils). Every other kind, also one that is added later, is taken to depend on the length."""

SWITCHES = ("use_dynamic_ntk", "use_logn_attn")
"""Switches of configurations, as Qwen's first, that scale positions or attention by the length of the text."""


def rope_types(config: Any) -> set[str]:
    """The kinds of rotary encoding that a transformers configuration names, in whatever place."""
    found: set[str] = set()
    for key in ("rope_parameters", "rope_scaling"):
        value = getattr(config, key, None)
        for parameters in (
            (value, *value.values()) if isinstance(value, Mapping) else ()
        ):  # also one for each layer type
            if isinstance(parameters, Mapping):
                kind = parameters.get("rope_type", parameters.get("type"))
                found |= {kind} if isinstance(kind, str) else set()
    return found


def depends_on_length(config: Any) -> bool:
    """Whether positions are, or may be, encoded by the length of the text."""
    return not rope_types(config) <= BY_POSITION or any(getattr(config, key, False) for key in SWITCHES)


class Fresh:
    """The state in which a model's rotary encodings were built; calling it restores that state.

    Kept are the buffers that are no weights and the plain numbers of each module that encodes positions.
    """

    def __init__(self, module: nn.Module) -> None:
        self._kept = [(m, *_state(m)) for m in module.modules() if _encodes_positions(m)]

    def __call__(self) -> None:
        for module, buffers, numbers in self._kept:
            for name, value in buffers.items():
                own = module._buffers.get(name)
                if own is not None and own.shape == value.shape and own.dtype == value.dtype:
                    own.copy_(value.to(own.device))
                else:
                    module._buffers[name] = value.clone()
            vars(module).update(numbers)


def _encodes_positions(module: nn.Module) -> bool:
    names = (type(module).__name__.lower(), *vars(module))
    return any("rotary" in name or "rope_type" in name or "seq_len_cached" in name for name in names)


def _state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, object]]:
    buffers = {name: value.clone() for name, value in module._buffers.items() if value is not None}
    numbers: dict[str, object] = {
        name: value
        for name, value in vars(module).items()
        if (value is None or isinstance(value, (int, float))) and name != "training"
    }
    return buffers, numbers
