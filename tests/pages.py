"""What the tests of the page share: texts that would do harm if they were markup, reports of them, details."""

import itertools
import math

import numpy as np
from models import BytesModel, hashed_loss

from evalgpt import Document, Encoding, Task, evaluate, make_report
from evalgpt.detail import RowDetail

HOSTILE = (
    "<script>window.harmed = 1</script></script><img src=x onerror='window.harmed = 1'>\n"
    "NUL \0 bell \7 override \u202edesrever\u202c mark \u200f joiner \u200d line \u2028 end {{ 7 * 7 }} $x_1$ ]]> -->\n"
    "\n# A heading\nemoji 🙂 family 👩\u200d👩\u200d👧 flag 🇳🇴 tone 👋🏽 accent e\u0301 keycap 1\ufe0f\u20e3\r\n"
    "עברית and العربية and words to fill the line, so that there is enough to score here\n"
    "\n# Another <b>heading</b>\nthe end & more\n"
)


class Texts(Task):
    name = "texts"

    def __init__(self, *texts, context=""):
        self.texts, self.context = texts, context

    def documents(self):
        for number, text in enumerate(self.texts):
            yield Document(f"text-{number}", text, self.context)


class Every(BytesModel):
    """A tokenizer that cuts after every ``step`` bytes, in the middle of characters or not."""

    def __init__(self, step, salt=0, **options):
        super().__init__(lambda c, t: hashed_loss((salt, *c[-4:]), t), context_length=64, **options)
        self.name = self.fingerprint = f"every-{step}-{salt}"
        self.spec = self.name
        self.step = step

    def encode(self, text):
        length = len(text.encode())
        edges = sorted({*range(0, length, self.step), length})
        spans = list(itertools.pairwise(edges))
        return Encoding([end % 256 for _, end in spans], spans if self.spans else None)


def report(*models, texts=(HOSTILE,), context="", spec="exact:context=64,stride=32", **options):
    task = Texts(*texts, context=context)
    return make_report([evaluate(model, task, spec, **options) for model in models], ["evalgpt", "run"])


def details(made):
    """Details of every row that has tokens, drawn at random but such that they fit the losses."""
    found = {}
    generator = np.random.default_rng(3)
    for e, evaluation in enumerate(made.evaluations):
        for r, row in enumerate(evaluation.rows):
            kept = row.tokenized
            token = [i for first, size in zip(kept.first, kept.size, strict=True) for i in range(first, first + size)]
            rank = generator.integers(0, 3, len(token))
            top = np.sort(generator.dirichlet(np.ones(4), len(token)), axis=1)[:, ::-1]
            top_text = [["<b>one</b>", "\u202etwo", " three", "\n"]] * len(token)
            entropy = np.full(len(token), math.log(2), np.float32)
            found[e, r] = RowDetail(np.array(token), rank, entropy, top_text, np.log(top).astype(np.float32))
    return found
