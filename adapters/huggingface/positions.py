"""How many tokens a transformers model can be fed at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from evalgpt.core import UsageError

__all__ = ["context_of"]


LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
"""Where configurations keep the context length; without any of them the model has no limit of its own."""

UNLIMITED = 2048
"""The context length given to a model without one (a state-space model, ALiBi); context_length=N changes it."""

NO_LENGTH = 1 << 31
"""From here on a number stands for no limit, as the 10**30 that some tokenizers and configurations hold."""


def context_of(module: Any, config: Any, wanted: int | None) -> tuple[int, list[str]]:
    """The context length, ``wanted`` where the model can be fed so much, and what a reader of its numbers must know.

    Raises:
        UsageError: ``wanted`` is below 1, or above what the model can be fed.
    """
    named = next((n for key in LENGTHS if isinstance(n := getattr(config, key, None), int) and n > 0), None)
    own = None if named is None or named >= NO_LENGTH else named
    table = _table(module)
    if table is not None:
        own = table if own is None else min(own, table)
    if wanted is None:
        return own or UNLIMITED, []
    if wanted < 1 or (table is not None and own is not None and wanted > own):
        raise UsageError(f"model 'hf': context_length {wanted} is out of range; accepted: 1 to {own or 'any'}")
    if own is None or wanted <= own:
        return wanted, []
    _try(module, wanted, own)
    return wanted, [f"it was made for {own} tokens of context and is fed {wanted}: losses beyond {own} may be poor"]


def _table(module: Any) -> int | None:
    """How many positions the model has an embedding for; None where positions are computed.

    A table with a padding index keeps the rows up to it for padding (RoBERTa's); one with an ``offset`` as many.
    """
    words = module.get_input_embeddings()
    for name, part in module.named_modules():
        if not isinstance(part, nn.Embedding) or part is words:
            continue
        last = name.rpartition(".")[2]
        if last == "wpe" or ("pos" in last and "type" not in last):
            kept = getattr(part, "offset", 0) if part.padding_idx is None else part.padding_idx + 1
            return int(part.num_embeddings) - int(kept)
    return None


def _try(module: Any, wanted: int, own: int) -> None:
    """Feed ``wanted`` tokens once: buffers of masks and positions may be no longer than ``own``."""
    try:
        with torch.inference_mode():
            module(input_ids=torch.zeros((1, wanted), dtype=torch.int64, device=module.device), use_cache=False)
    except Exception as error:  # whatever a model raises that has no positions left
        raise UsageError(
            f"model 'hf': context_length {wanted} is more than this model can be fed ({type(error).__name__}); "
            f"accepted: 1 to {own}"
        ) from error
