"""The GPT of the from-scratch course, in one file.

A decoder-only transformer as in GPT-2: token plus learned position embeddings, then blocks of layer norm, causal
multi-head attention, layer norm and a feed-forward network with the tanh GELU, each around a residual connection,
then a last norm and an output head. Module names and the order in which the modules are made follow the course
("Build a Large Language Model (From Scratch)", Raschka 2024, chapter 4), so that the same seed draws the same
weights and a checkpoint of the course's ``GPTModel`` loads. Attention runs through
``scaled_dot_product_attention``, which is the course's formula without its T x T matrix of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GPTConfig", "GPTModel"]


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """The fields of the course's ``GPT_CONFIG_124M``, by the same names."""

    vocab_size: int = 50257
    context_length: int = 256
    emb_dim: int = 768
    n_heads: int = 12
    n_layers: int = 12
    drop_rate: float = 0.1
    qkv_bias: bool = False


class LayerNorm(nn.Module):
    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, list(self.scale.shape), self.scale, self.shift, eps=1e-5)


class MultiHeadAttention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.drop_rate = config.drop_rate
        width = config.emb_dim
        self.W_query = nn.Linear(width, width, bias=config.qkv_bias)
        self.W_key = nn.Linear(width, width, bias=config.qkv_bias)
        self.W_value = nn.Linear(width, width, bias=config.qkv_bias)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """``seen`` bool [T, T] says which positions each one attends to; by default itself and those before it."""
        query, key, value = self._projections(x)
        dropout = self.drop_rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=dropout, is_causal=seen is None
        )
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each [B, heads, T, width / heads]."""
        batch, length, _ = x.shape
        query, key, value = (
            project(x).view(batch, length, self.n_heads, -1).transpose(1, 2)
            for project in (self.W_query, self.W_key, self.W_value)
        )
        return query, key, value


class FeedForward(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.emb_dim
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class TransformerBlock(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.att = MultiHeadAttention(config)
        self.ff = FeedForward(config)
        self.norm1 = LayerNorm(config.emb_dim)
        self.norm2 = LayerNorm(config.emb_dim)
        self.drop_shortcut = nn.Dropout(config.drop_rate)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = x + self.drop_shortcut(self.att(self.norm1(x), seen))
        x = x + self.drop_shortcut(self.ff(self.norm2(x)))
        return x


class GPTModel(nn.Module):
    """Token ids int64 [B, T], T at most ``context_length``, to logits [B, T, vocab_size]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.emb_dim)
        self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)
        self.drop_emb = nn.Dropout(config.drop_rate)
        self.trf_blocks = nn.Sequential(*(TransformerBlock(config) for _ in range(config.n_layers)))
        self.final_norm = LayerNorm(config.emb_dim)
        self.out_head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)

    def hidden(self, ids: Tensor) -> Tensor:
        """The states [B, T, emb_dim] that the output head multiplies."""
        x = self.drop_emb(self.tok_emb(ids) + self.pos_emb.weight[: ids.shape[1]])
        states: Tensor = self.final_norm(self.trf_blocks(x))
        return states

    def hidden_tree(self, ids: Tensor, depth: Tensor, seen: Tensor) -> Tensor:
        """The states [N, emb_dim] of a tree of texts: token ``ids[i]`` at position ``depth[i]`` sees ``seen[i]``."""
        x = (self.tok_emb(ids) + self.pos_emb(depth))[None]
        for block in self.trf_blocks:
            x = block(x, seen)
        states: Tensor = self.final_norm(x)[0]
        return states

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.out_head(self.hidden(ids))
        return logits
