"""Cross entropy over a large vocabulary without ever holding the logits.

The unembedding matrix is walked in tiles of rows; a running maximum and a running sum give the log of the softmax's
denominator (online logsumexp, Milakov and Gimelshein 2018, arXiv:1805.02867), a dot product the target's logit.
Rank, entropy and the likeliest tokens come from the same walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from evalgpt.adapters.kernels.products import TileMatmul, tile_matmul, without_mode
from evalgpt.core import Detail

__all__ = [
    "ROWS",
    "TILE",
    "Head",
    "Scores",
    "divergence_of_logits",
    "join",
    "scores_from_logits",
    "tiled_divergence",
    "tiled_scores",
]


TILE = {"cpu": 512}
"""Vocabulary rows per tile by kind of device, 1024 elsewhere, and ROWS hidden rows per block: one block's tile of
logits is 2 MiB in float32. On a CPU 512 is as fast as 1024 and for few rows a tenth faster."""

ROWS = 1024


@dataclass(frozen=True, slots=True)
class Head:
    """How states become logits: ``scale * (h @ weight.T + bias)``, then ``softcap * tanh(. / softcap)``.

    ``weight`` [V, d]; ``bias`` [V] or None. Cohere scales (logit_scale), Granite divides, Gemma 2 caps softly
    (final_logit_softcapping).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def finish(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        """What follows the matrix product, in place; ``bias`` is the part of it that belongs to these columns."""
        if bias is not None:
            logits.add_(bias)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


@dataclass(slots=True)
class Scores:
    """Per row: ``nll`` [R] in nats; on request ``rank`` int64 [R], ``entropy`` [R] in nats, and the likeliest
    tokens ``top_ids`` int64 [R, k] with ``top_logprobs`` [R, k]."""

    nll: Tensor
    rank: Tensor | None = None
    entropy: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None

    def take(self, rows: Tensor) -> Scores:
        """The scores of ``rows`` int64 [n], which may name a row several times."""

        def some(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[rows]

        return Scores(self.nll[rows], some(self.rank), some(self.entropy), some(self.top_ids), some(self.top_logprobs))


def tiled_scores(
    hidden: Tensor, head: Head, targets: Tensor, detail: Detail | None = None, tile: int | None = None
) -> Scores:
    """Score ``targets`` int64 [R] from ``hidden`` [R, d] and ``head``, without logits of R x V.

    Logits are computed in the dtype of the inputs; maxima, sums and losses in float32, or float64 for float64.
    """
    tile = tile or _tile(hidden)
    blocks: list[Scores] = [
        without_mode(_block, h, head, t, detail or Detail(), tile, tile_matmul(h))
        for h, t in zip(torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True)
    ]
    return blocks[0] if len(blocks) == 1 else join(blocks)


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


def divergence_of_logits(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`tiled_divergence` gives, from both models' full logits [R, V]."""
    log_p, log_q = (logits.to(_wide(logits)).log_softmax(1) for logits in (p, q))
    gap = torch.where(log_p == -torch.inf, 0.0, log_p - log_q)  # what P forbids adds nothing, whatever Q thinks
    return (log_p.exp() * gap).sum(1), p.argmax(1) == q.argmax(1)


def _tile(hidden: Tensor) -> int:
    return TILE.get(hidden.device.type, 1024)


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _wide(tensor: Tensor) -> torch.dtype:
    """Sums over the vocabulary and over the hidden size are taken in float64 where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _block(hidden: Tensor, head: Head, targets: Tensor, detail: Detail, tile: int, multiply: TileMatmul) -> Scores:
    dtype, wide = _accumulator(hidden), _wide(hidden)
    normaliser = _Normaliser(hidden)
    # A dot product is nearer the truth than a float32 matrix product. In half precision the tiles' logits are rounded
    # so far that only a target rounded alike belongs to their sum: else a sure prediction costs less than nothing.
    rounded = hidden.dtype in (torch.bfloat16, torch.float16)
    target = _gathered(hidden, head, targets, tile, multiply) if rounded else _dot(hidden, head, targets, wide)
    walk = _Walk(detail, targets, target.to(dtype), wide)
    for begin, logits in _tiles(hidden, head, tile, multiply):
        walk.see(logits, begin)
        scale = normaliser.raise_to(logits)
        walk.rescale(scale, logits, normaliser.maximum)
        normaliser.add(logits.sub_(normaliser.maximum[:, None]).exp_())
    log_sum = normaliser.log_sum()
    return walk.finish(Scores((log_sum - target).to(dtype)), log_sum, normaliser.total)


def _dot(hidden: Tensor, head: Head, targets: Tensor, wide: torch.dtype) -> Tensor:
    """The targets' logits [R], each as a dot product in ``wide``."""
    product = (hidden.to(wide) * head.weight[targets].to(wide)).sum(1)
    return head.finish(product, None if head.bias is None else head.bias[targets].to(wide))


def _gathered(hidden: Tensor, head: Head, targets: Tensor, tile: int, multiply: TileMatmul) -> Tensor:
    """The targets' logits [R], read from the tiles that hold them; tiles without a target are not computed."""
    result = torch.empty(len(targets), dtype=_accumulator(hidden), device=hidden.device)
    wanted = set((targets // tile).tolist())
    for begin, logits in _tiles(hidden, head, tile, multiply, wanted):
        (rows,) = ((targets >= begin) & (targets < begin + tile)).nonzero(as_tuple=True)
        result[rows] = logits[rows, targets[rows] - begin]
    return result


def _tiles(
    hidden: Tensor, head: Head, tile: int, multiply: TileMatmul, wanted: set[int] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """(first vocabulary row, logits [R, <= tile] in the accumulator's dtype), one buffer for all where it serves.

    ``wanted`` numbers the tiles to make; all by default.
    """
    rows, vocabulary, dtype = len(hidden), len(head.weight), _accumulator(hidden)
    buffer = torch.empty(rows * min(tile, vocabulary), dtype=hidden.dtype, device=hidden.device)
    for number, begin in enumerate(range(0, vocabulary, tile)):
        if wanted is not None and number not in wanted:
            continue
        part = head.weight[begin : begin + tile]
        out = buffer[: rows * len(part)].view(rows, len(part))
        logits = multiply(part, out).to(dtype)
        yield begin, head.finish(logits, None if head.bias is None else head.bias[begin : begin + tile].to(dtype))


class _Normaliser:
    """The running maximum and sum of exponentials over the tiles."""

    def __init__(self, hidden: Tensor) -> None:
        rows, device = len(hidden), hidden.device
        self.maximum = torch.full((rows,), -torch.inf, dtype=_accumulator(hidden), device=device)
        self.total = torch.zeros(rows, dtype=_wide(hidden), device=device)

    def raise_to(self, logits: Tensor) -> Tensor:
        """Take in the tile's maximum; the factor by which sums so far shrink, in the sums' dtype."""
        larger = torch.maximum(self.maximum, logits.amax(1))
        scale = (self.maximum - larger).exp_().to(self.total.dtype)
        self.total.mul_(scale)
        self.maximum = larger
        return scale

    def add(self, exponentials: Tensor) -> None:
        self.total.add_(exponentials.sum(1).to(self.total.dtype))

    def log_sum(self) -> Tensor:
        return self.total.log() + self.maximum


def tiled_divergence(
    hidden: tuple[Tensor, Tensor], heads: tuple[Head, Head], tile: int | None = None
) -> tuple[Tensor, Tensor]:
    """KL(P || Q) in nats, float [R], of two models with one vocabulary, and whether their likeliest tokens agree.

    ``hidden`` are the two models' states [R, d] at the same positions (their widths may differ). With logits p and q,
    KL = sum P (p - q) - log Z_p + log Z_q, whose sum runs along with the tiles.
    """
    tile = tile or _tile(hidden[0])
    parts: list[tuple[Tensor, Tensor]] = [
        without_mode(_divergence, p, q, heads, tile, (tile_matmul(p), tile_matmul(q)))
        for p, q in zip(torch.split(hidden[0], ROWS), torch.split(hidden[1], ROWS), strict=True)
    ]
    return torch.cat([kl for kl, _ in parts]), torch.cat([same for _, same in parts])


def _divergence(
    one: Tensor, other: Tensor, heads: tuple[Head, Head], tile: int, multiply: tuple[TileMatmul, TileMatmul]
) -> tuple[Tensor, Tensor]:
    sums = (_Normaliser(one), _Normaliser(other))
    gap = torch.zeros_like(sums[0].total)
    best = [torch.full((len(one),), -1, device=one.device) for _ in range(2)]
    walks = (_tiles(one, heads[0], tile, multiply[0]), _tiles(other, heads[1], tile, multiply[1]))
    for (begin, p), (_, q) in zip(*walks, strict=True):
        difference = torch.where(p == -torch.inf, 0.0, p - q)  # what P forbids adds nothing, whatever Q thinks
        for k, logits in enumerate((p, q)):
            value, index = logits.max(1)
            best[k] = torch.where(value > sums[k].maximum, index + begin, best[k])
            scale = sums[k].raise_to(logits)
            sums[k].add(logits.sub_(sums[k].maximum[:, None]).exp_())
            if k == 0:
                gap.mul_(scale).add_((logits * difference).sum(1).to(gap.dtype))
    kl = gap / sums[0].total - sums[0].log_sum() + sums[1].log_sum()
    return kl, best[0] == best[1]


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


def join(blocks: list[Scores]) -> Scores:
    """The scores of all ``blocks``, one after another."""

    def cat(name: str) -> Tensor | None:
        parts = [getattr(block, name) for block in blocks]
        return None if parts[0] is None else torch.cat(parts)

    nll = torch.cat([block.nll for block in blocks])
    return Scores(nll, cat("rank"), cat("entropy"), cat("top_ids"), cat("top_logprobs"))
