"""The GPT of the from-scratch course, its tokenizer and its weights."""

from __future__ import annotations

from evalgpt.adapters.gpt.model import GPTConfig, GPTModel

__all__ = ["GPTConfig", "GPTModel"]
