"""What ``--detail`` keeps of single tokens besides their losses, in a file beside the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowDetail"]


@dataclass(frozen=True, slots=True)
class RowDetail:
    """More about a row's n scores, in the order of ``RowInfo.tokenized.nll``.

    ``token`` int64 [n] is each score's index in ``tokenized.ids``; ``rank`` int64 [n] counts the tokens that the model
    preferred (0 = its first choice); ``entropy`` float32 [n], nats; ``top_text`` [n][k] and ``top_logprobs`` float32
    [n, k] (nats) are the k likeliest tokens, likeliest first.
    """

    token: NDArray[np.int64]
    rank: NDArray[np.int64]
    entropy: NDArray[np.float32]
    top_text: Sequence[Sequence[str]]
    top_logprobs: NDArray[np.float32]
