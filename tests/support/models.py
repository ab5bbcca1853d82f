"""Models for tests: small, exact, and written against the public interface alone."""

import hashlib
import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from evalgpt import Detail, Encoding, Model, TokenScores, Window


class BytesModel(Model):
    """Tokens are UTF-8 bytes, 256 is BOS. The loss of a token is any function of the exact tokens fed before it."""

    def __init__(
        self,
        loss: Callable[[tuple[int, ...], int], float] | None = None,
        *,
        context_length: int = 32,
        prefix_id: int | None = 256,
        adds_bos: bool = False,
        spans: bool = True,
    ) -> None:
        self.name = "bytes"
        self.fingerprint = "bytes"
        self.context_length = context_length
        self.vocab_size = 257
        self.prefix_id = prefix_id
        self.adds_bos = adds_bos
        self.spans = spans
        self.loss = loss or hashed_loss
        self.batches: list[list[Window]] = []

    def encode(self, text: str) -> Encoding:
        ids = list(text.encode())
        return Encoding(ids, [(i, i + 1) for i in range(len(ids))] if self.spans else None)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace") if any(i < 256 for i in ids) else "<bos>"

    def score(self, windows: Sequence[Window], detail: Detail | None = None) -> list[TokenScores]:
        self.batches.append(list(windows))
        assert all(len(window.ids) - 1 <= self.context_length for window in windows)
        return [
            TokenScores(
                np.array([self.loss(tuple(w.ids[:i]), w.ids[i]) for i in range(w.start, len(w.ids))], dtype=np.float32)
            )
            for w in windows
        ]


class Writer(BytesModel):
    """Says ``answer`` byte by byte, over and over, and is sure of it."""

    def __init__(self, answer, eos=None, **options):
        super().__init__(**options)
        self.answer = answer
        self.eos_ids = () if eos is None else (eos,)
        self.fed = []

    def next_logits(self, ids, count=1):
        self.fed.append(list(ids))
        logits = np.full((count, self.vocab_size), -50.0, np.float32)
        logits[:, self.answer[(len(self.fed) - 1) % len(self.answer)]] = 50.0
        return logits


def hashed_loss(context: tuple[int, ...], target: int) -> float:
    """A loss in (0, 12) nats that differs for every context and target, and is the same in every process."""
    seed = hashlib.sha256(repr((context, target)).encode()).digest()
    return float(np.float32(12 * random.Random(seed).random()))


def uniform_loss(context: tuple[int, ...], target: int) -> float:
    return math.log(257)
