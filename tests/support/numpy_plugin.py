"""A plugin without torch, for tests of the command line in processes of their own: each then starts six times faster.

``table`` is a model of bytes that gives logits: the next one depends on the last one alone.
"""

import time

import numpy as np
from support.models import BytesModel

import evalgpt


class Table(BytesModel):
    """Logits from a random table; context 64. ``pause`` seconds for a batch let a bar be seen to move."""

    def __init__(self, seed, pause):
        super().__init__(context_length=64)
        self.name = "table"
        self.pause = pause
        self.fingerprint = f"table-{seed}"
        self.trained = False
        self.cache_id = "table"
        self.table = np.random.default_rng(seed).normal(size=(257, 257)).astype(np.float32)
        self.nll = (np.log(np.exp(self.table).sum(1, keepdims=True)) - self.table).astype(np.float32)

    def score(self, windows, detail=None):
        time.sleep(self.pause)
        return [evalgpt.TokenScores(self.nll[list(w.ids[w.start - 1 : -1]), list(w.ids[w.start :])]) for w in windows]

    def next_logits(self, ids, count=1):
        return self.table[list(ids[-count:])]


def make_table(argument, *, seed: int = 0, pause: float = 0.0):
    """A random table of byte pairs."""
    return Table(seed, pause)


@evalgpt.hookimpl
def register_models(register):
    register("table", make_table)
