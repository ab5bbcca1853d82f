"""Evaluations whose scores are kept in detail."""

import numpy as np
from support.models import BytesModel

from evalgpt import Detail, Document, Task, TokenScores, evaluate
from evalgpt.report.detail import Collected

TEXT = "Größe 😀 שלום\0 is not all.\r\nA second line, so that windows overlap.\n"


class Bytes(BytesModel):
    """A distribution of its own for every context; ``room`` is how many windows fit the memory at once."""

    room = 99

    def logits(self, context):
        return np.random.default_rng([*context[-3:], len(context)]).normal(size=self.vocab_size)

    def score(self, windows, detail=None):
        if len(windows) > self.room:
            raise MemoryError
        return [self.one(w, detail or Detail()) for w in windows]

    def one(self, window, detail):
        columns = [[], [], [], [], []]
        for i in range(window.start, len(window.ids)):
            logits = self.logits(window.ids[:i])
            logp = logits - np.log(np.exp(logits).sum())
            best = np.argsort(-logp)[: detail.top]
            values = (
                -logp[window.ids[i]],
                (logp > logp[window.ids[i]]).sum(),
                -(np.exp(logp) @ logp),
                best,
                logp[best],
            )
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        nll, rank, entropy, ids, top = map(np.array, columns)
        return TokenScores(nll.astype(np.float32), rank, entropy, ids, top)


class Texts(Task):
    name = "texts"

    def documents(self):
        yield Document("a", TEXT)
        yield Document("b", "Short.", context="Given: ")


def collected(model=None, protocol="exact:context=16,stride=5", top=3, **options):
    found = Collected(top)
    return evaluate(model or Bytes(), Texts(), protocol, detail=found, **options), found
