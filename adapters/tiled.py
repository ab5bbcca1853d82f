"""Cross entropy over a large vocabulary without ever holding the logits.

The unembedding matrix is walked in tiles of rows; a running maximum and a running sum give the log of the softmax's
denominator (online logsumexp, Milakov and Gimelshein 2018, arXiv:1805.02867), a dot product the target's logit.
Rank, entropy and the likeliest tokens come from the same walk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evalgpt.core import Detail

__all__ = ["ROWS", "TILE", "Scores", "scores_from_logits", "tiled_scores"]

TILE = 1024
"""Vocabulary rows per tile, and ROWS hidden rows per block: one block's tile of logits is 4 MiB in float32."""

ROWS = 1024


@dataclass(slots=True)
class Scores:
    """Per row: ``nll`` [R] in nats; on request ``rank`` int64 [R], ``entropy`` [R] in nats, and the likeliest
    tokens ``top_ids`` int64 [R, k] with ``top_logprobs`` [R, k]."""

    nll: Tensor
    rank: Tensor | None = None
    entropy: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


def tiled_scores(
    hidden: Tensor, unembedding: Tensor, targets: Tensor, detail: Detail | None = None, tile: int = TILE
) -> Scores:
    """Score ``targets`` int64 [R] from ``hidden`` [R, d] and ``unembedding`` [V, d], without logits of R x V.

    Logits are computed in the dtype of the inputs; maxima, sums and losses in float32, or float64 for float64.
    """
    blocks = [
        _block(h, unembedding, t, detail or Detail(), tile)
        for h, t in zip(torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True)
    ]
    return blocks[0] if len(blocks) == 1 else _join(blocks)


def scores_from_logits(logits: Tensor, targets: Tensor, detail: Detail | None = None) -> Scores:
    """The same scores from full ``logits`` [R, V], for models that give nothing else."""
    detail = detail or Detail()
    logits = logits.to(_accumulator(logits))
    normaliser = torch.logsumexp(logits, 1)
    target = logits.gather(1, targets[:, None])
    scores = Scores(normaliser - target[:, 0])
    if detail.rank:
        scores.rank = (logits > target).sum(1)
    if detail.entropy:
        probability = (logits - normaliser[:, None]).exp()
        scores.entropy = normaliser - (probability * logits.clamp_min(torch.finfo(logits.dtype).min)).sum(1)
    if detail.top:
        values, scores.top_ids = logits.topk(min(detail.top, logits.shape[1]), 1)
        scores.top_logprobs = values - normaliser[:, None]
    return scores


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _wide(tensor: Tensor) -> torch.dtype:
    """Sums over the vocabulary and over the hidden size are taken in float64 where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _block(hidden: Tensor, unembedding: Tensor, targets: Tensor, detail: Detail, tile: int) -> Scores:
    rows, vocabulary = len(hidden), len(unembedding)
    dtype, wide = _accumulator(hidden), _wide(hidden)
    target = (hidden.to(wide) * unembedding[targets].to(wide)).sum(1)
    buffer = torch.empty(rows * min(tile, vocabulary), dtype=hidden.dtype, device=hidden.device)
    maximum = torch.full((rows,), -torch.inf, dtype=dtype, device=hidden.device)
    total = torch.zeros(rows, dtype=wide, device=hidden.device)
    walk = _Walk(detail, targets, target.to(dtype), wide)
    for begin in range(0, vocabulary, tile):
        part = unembedding[begin : begin + tile]
        out = buffer[: rows * len(part)].view(rows, len(part))
        logits = torch.mm(hidden, part.T, out=out).to(dtype)
        walk.see(logits, begin)
        larger = torch.maximum(maximum, logits.amax(1))
        scale = (maximum - larger).exp_().to(wide)
        total.mul_(scale)
        walk.rescale(scale, logits, larger)
        total.add_(logits.sub_(larger[:, None]).exp_().sum(1).to(wide))
        maximum = larger
    normaliser = total.log() + maximum
    return walk.finish(Scores((normaliser - target).to(dtype)), normaliser, total)


class _Walk:
    """What ``Detail`` asks for, gathered while the tiles pass by."""

    def __init__(self, detail: Detail, targets: Tensor, target: Tensor, wide: torch.dtype) -> None:
        self.detail, self.targets, self.target = detail, targets, target
        self.rank = torch.zeros_like(targets)
        self.weighted = torch.zeros(len(targets), dtype=wide, device=targets.device)
        self.values = target.new_empty((len(targets), 0))
        self.ids = targets.new_empty((len(targets), 0))

    def see(self, logits: Tensor, begin: int) -> None:
        if self.detail.rank:
            larger = logits > self.target[:, None]
            inside = (self.targets >= begin) & (self.targets < begin + logits.shape[1])
            # The target's own logit may round to either side of the dot product; it never outranks itself.
            rows = inside.nonzero()[:, 0]
            larger[rows, self.targets[rows] - begin] = False
            self.rank += larger.sum(1)
        if self.detail.top:
            values, ids = logits.topk(min(self.detail.top, logits.shape[1]), 1)
            values, ids = torch.cat([self.values, values], 1), torch.cat([self.ids, ids + begin], 1)
            self.values, keep = values.topk(min(self.detail.top, values.shape[1]), 1)
            self.ids = ids.gather(1, keep)

    def rescale(self, scale: Tensor, logits: Tensor, maximum: Tensor) -> None:
        if self.detail.entropy:
            weights = (logits - maximum[:, None]).exp_()
            self.weighted.mul_(scale).add_((weights * logits).sum(1).to(scale.dtype))

    def finish(self, scores: Scores, normaliser: Tensor, total: Tensor) -> Scores:
        dtype = scores.nll.dtype
        if self.detail.rank:
            scores.rank = self.rank
        if self.detail.entropy:
            scores.entropy = (normaliser - self.weighted / total).to(dtype)
        if self.detail.top:
            scores.top_ids, scores.top_logprobs = self.ids, (self.values - normaliser[:, None]).to(dtype)
        return scores


def _join(blocks: list[Scores]) -> Scores:
    def cat(name: str) -> Tensor | None:
        parts = [getattr(block, name) for block in blocks]
        return None if parts[0] is None else torch.cat(parts)

    nll = torch.cat([block.nll for block in blocks])
    return Scores(nll, cat("rank"), cat("entropy"), cat("top_ids"), cat("top_logprobs"))
