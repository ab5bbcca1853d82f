"""Losses along a text in a bounded number of sums over neighbouring tokens, for its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CELLS", "Cells"]


CELLS = 1 << 18
"""Entries up to which the interval is of single tokens; beyond, of so many to twice as many sums over neighbours."""


class Cells:
    """Loss, tokens and bytes of neighbouring tokens, in at most twice ``CELLS`` sums: pairs become one when they are
    full. A cell over several texts counts as the first one's."""

    def __init__(self) -> None:
        self.sums = np.zeros((2 * CELLS, 4))  # loss, tokens, bytes, document
        self.each = 1  # tokens of a full cell
        self.used = 0

    def add(self, losses: NDArray[np.float64], sizes: NDArray[np.float64], document: int) -> None:
        at = 0
        while at < len(losses):
            if self.used == len(self.sums):
                self._halve()
            at += self._into(losses[at:], sizes[at:], document)

    def _into(self, losses: NDArray[np.float64], sizes: NDArray[np.float64], document: int) -> int:
        """Take in some of these tokens; how many."""
        last = self.sums[self.used - 1] if self.used else None
        if last is not None and last[1] < self.each:
            count = min(int(self.each - last[1]), len(losses))
            last[:3] += losses[:count].sum(), count, sizes[:count].sum()
            return count
        count = min(len(losses) // self.each, len(self.sums) - self.used)
        if count == 0:
            count, width = 1, len(losses)
        else:
            width = self.each
        new = self.sums[self.used : self.used + count]
        new[:, 0] = losses[: count * width].reshape(count, width).sum(1)
        new[:, 1] = width
        new[:, 2] = sizes[: count * width].reshape(count, width).sum(1)
        new[:, 3] = document
        self.used += count
        return count * width

    def _halve(self) -> None:
        pairs = self.sums.reshape(-1, 2, 4)
        merged = pairs.sum(1)
        merged[:, 3] = pairs[:, 0, 3]
        self.sums[: len(merged)] = merged
        self.used = len(merged)
        self.each *= 2

    def mean_tokens(self) -> float:
        """Tokens of a cell, in the mean."""
        return float(self.sums[: self.used, 1].mean())

    def columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Loss (nats), tokens, bytes, document of each cell."""
        used = self.sums[: self.used]
        return used[:, 0], used[:, 1], used[:, 2], used[:, 3].astype(np.int64)
