"""The headline numbers of other tools, each as that tool averages the same token losses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from evalgpt.core import Row

__all__ = ["book", "hf_strided", "llama_cpp", "lm_eval"]


def lm_eval(rows: Sequence[Row]) -> dict[str, float]:
    """Word perplexity, byte perplexity and bits per byte, the words split on ``\\s+``.

    Source: lm_eval/api/metrics.py (weighted_perplexity, bits_per_byte) with the counts of lm_eval's WikiText
    task: all words and bytes of the text, an empty string before leading or after trailing white space counted.
    """
    texts = [row.text for row in rows]
    nll = sum(float(row.nll.sum(dtype=np.float64)) for row in rows)
    words = sum(len(re.split(r"\s+", text)) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    return {
        "word_perplexity": _exp(nll / words),
        "byte_perplexity": _exp(nll / size),
        "bits_per_byte": nll / size / math.log(2),
    }


def hf_strided(rows: Sequence[Row], context: int, stride: int) -> dict[str, float]:
    """The three averagings the transformers documentation has published, over window means.

    v1 weights each window's mean by ``trg_len`` (its tokens not seen in the window before), v2 by one, v3 by
    ``trg_len - 1``. A window whose first token is new has one target fewer than ``trg_len``.
    """
    means: list[float] = []
    targets: list[int] = []
    for row in rows:
        for number, (window, nll) in enumerate(zip(row.windows, _losses(row), strict=True)):
            means.append(float(nll.mean()))
            targets.append(window.size + (1 if number == 0 or stride == context else 0))
    mean, target = np.array(means), np.array(targets, dtype=np.float64)
    result = {"perplexity_v1": _exp(float(mean @ target / target.sum())), "perplexity_v2": _exp(float(mean.mean()))}
    if (target > 1).any():
        result["perplexity_v3"] = _exp(float(mean @ (target - 1) / (target - 1).sum()))
    return result


def llama_cpp(rows: Sequence[Row]) -> dict[str, float]:
    """exp(mean) and its i.i.d. standard error PPL * sqrt(variance / (count - 1)), as tools/perplexity prints."""
    nll = np.concatenate([row.nll for row in rows]).astype(np.float64)
    perplexity = _exp(float(nll.mean()))
    if len(nll) < 2:
        return {"perplexity": perplexity}
    return {"perplexity": perplexity, "standard_error": perplexity * math.sqrt(float(nll.var()) / (len(nll) - 1))}


def book(rows: Sequence[Row], batch: int = 2) -> dict[str, float]:
    """Per split the mean of batch means, nats: the course's ``calc_loss_loader`` with batches of two windows.

    A split without a window has no number (the course's is NaN).
    """
    result: dict[str, float] = {}
    for split in dict.fromkeys(row.split for row in rows):
        means: list[float] = []
        for row in rows:
            if row.split == split:
                losses = list(_losses(row))
                means += [float(np.concatenate(losses[i : i + batch]).mean()) for i in range(0, len(losses), batch)]
        if means:
            result[f"{split}_loss"] = float(np.mean(means))
    return result


def _losses(row: Row) -> Iterator[NDArray[np.float64]]:
    """The row's NLL, window by window, in float64."""
    at = 0
    for window in row.windows:
        yield row.nll[at : at + window.size].astype(np.float64)
        at += window.size


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf
