"""What the tests of the page share: texts that would do harm if they were markup, reports of them, details."""

import itertools
import math

import numpy as np
from support.models import BytesModel, hashed_loss

from evalgpt import Document, Encoding, Task, evaluate, make_report
from evalgpt.report.detail import RowDetail
from evalgpt.studies.explanation import Candidate, Explained, Explanation, Prediction, Token
from evalgpt.studies.training.log import Best, Evaluated, Memorised, Sampled, Settings, Span, Training, Updates

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


def explanation(count=6, texts=1, logits=True):
    """A walk over ``count`` tokens of each text that would do harm if they were markup; its numbers fit together."""
    made = report(Every(3)).evaluations[0].model
    spelled = ["<script>window.harmed = 1</script>", "\u202edesrever", " ", "\0\n", "שלום", "{{ 7 * 7 }}" + "x" * 90]
    tokens = [Token(id=n, text=spelled[n % len(spelled)]) for n in range(count)]
    predictions = []
    for n in range(1, count):
        log = -0.25 * (1 + n % 7)
        likeliest = [
            Candidate(
                token=Token(id=n - 1 + k, text=tokens[n - 1 + k].text), probability=p, log_probability=math.log(p)
            )
            for k, p in ((0, 0.5), (1, 0.0001))
        ]
        predictions.append(
            Prediction(
                input=tokens[n - 1], target=tokens[n], predicted=likeliest[0].token,
                logit=log + 3.5 if logits else None, log_normaliser=3.5 if logits else None,
                probability=math.exp(log), log_probability=log,
                rank=n if logits else None, score=-log, likeliest=likeliest,
            )
        )  # fmt: skip
    text = Explained(text=HOSTILE, tokens=tokens, byte_starts=None, byte_ends=None, predictions=predictions)
    mean = math.fsum(p.log_probability for p in predictions) / len(predictions)
    return Explanation(
        model=made, prefix=Token(id=1, text="<|end|>"), texts=[text] * texts, mean_log_probability=mean, loss=-mean,
        cross_entropy=-mean, largest_difference=1e-7 if logits else None, perplexity=math.exp(-mean),
    )  # fmt: skip


def training(done=40, total=50):
    """The log of a run whose texts would do harm if they were markup."""
    made = report(Every(3))
    (one,) = made.evaluations
    updates = Updates(
        loss=[9 / (1 + n / 5) + (n % 3) / 4 for n in range(done)],
        gradient_norm=[1 + n % 5 for n in range(done)],
        learning_rate=[4e-4 * (1 - n / total) for n in range(done)],
        epoch=[1 + n // 10 for n in range(done)],
        seconds=[0.5 * n for n in range(done)],
    )
    evaluations = [
        Evaluated(
            updates=n, epoch=n // 10, tokens_seen=512 * n, train_loss=9 / (1 + n / 4), validation_loss=9 / (1 + n / 20),
            train_bits_per_byte=1.5, validation_bits_per_byte=None, fingerprint="f", seconds=float(n),
        )
        for n in range(0, done + 1, 10)
    ]  # fmt: skip
    span = Span(document="<b>", split="train", first=7, tokens=12, loss=0.04, text=HOSTILE)
    return Training(
        run=made.run, settings=Settings(model="<i>\u202e", task="texts", sample=HOSTILE), model=one.model,
        task=one.task, protocol=one.protocol, windows={"train": 18, "validation": 2}, total_updates=total,
        updates=updates, evaluations=evaluations, samples=[Sampled(updates=10, epoch=1, text=HOSTILE)],
        best=Best(updates=done, validation_loss=1.0),
        memorised=Memorised(updates=done, probability=0.9, share={"train": 0.46}, spans={"train": [span], "<p>": []}),
    )  # fmt: skip
