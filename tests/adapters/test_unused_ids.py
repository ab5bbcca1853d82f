"""Ids that no token has, as of a padded embedding: shown as such, and never picked."""

import numpy as np
import pytest
from support.models import BytesModel

from evalgpt import Detail, Document, EvaluationError, Task, TokenScores, evaluate, explain, generate
from evalgpt.core.answers import decode
from evalgpt.report.detail import Collected
from evalgpt.studies.generation import Sampling
from evalgpt.testing import Subject, run_check

LAST = 299


class Padded(BytesModel):
    """The ids from 256 on are no tokens, decode() does not know them, and the model holds them likeliest."""

    unused_ids: range | tuple[()] = range(256, LAST + 1)

    def __init__(self):
        super().__init__()
        self.vocab_size = LAST + 1
        self.prefix_id = None

    def decode(self, ids):
        return b"".join({i: bytes([i]) for i in range(256)}[i] for i in ids).decode(errors="replace")

    def next_logits(self, ids, count=1):
        return np.tile(np.arange(self.vocab_size, dtype=np.float32) / 100, (count, 1))

    def score(self, windows, detail=None):
        return [self.one(w, detail or Detail()) for w in windows]

    def one(self, window, detail):
        logits = self.next_logits([])[0].astype(np.float64)
        logs = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
        targets = np.array(window.ids[window.start :])
        best = np.tile(np.argsort(-logs)[: detail.top], (len(targets), 1))
        return TokenScores(-logs[targets], LAST - targets, np.full(len(targets), 5, np.float32), best, logs[best])


class Silent(Padded):
    """Does not say so."""

    unused_ids = ()


class Text(Task):
    name = "text"

    def documents(self):
        yield Document("one", "every effort")


@pytest.mark.parametrize("model", [Padded, Silent])
def test_details_and_explanations_show_them(model):
    found = Collected(3)
    evaluate(model(), Text(), detail=found)
    columns = found.columns()
    assert bytes(columns["top_text_utf8"]).startswith(b"<id 299><id 298><id 297>")
    (text,) = explain(model(), "abc", top=2).texts
    assert [c.token.text for c in text.predictions[0].likeliest] == ["<id 299>", "<id 298>"]


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_they_are_never_picked(temperature):
    written = generate(Padded(), "abc", tokens=8, sampling=Sampling(temperature=temperature))
    assert max(written.ids) < 256
    if not temperature:
        assert written.ids == [255] * 8
    logits = Padded().next_logits([])[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum())  # the model's own distribution, unused ids among it
    assert written.log_probabilities == pytest.approx([logs[i] for i in written.ids])


def test_a_model_that_does_not_say_so_is_told():
    with pytest.raises(EvaluationError, match=r"decode\(\) of the ids .*299 raised KeyError"):
        generate(Silent(), "abc", tokens=8)
    outcome = run_check(Subject(Silent), "decode_every_id")
    assert outcome.status == "failed"
    assert "decode([256]) raises KeyError" in outcome.message
    assert run_check(Subject(Padded), "decode_every_id").status == "passed"


def test_text_and_unused_ids_are_decoded_together():
    assert decode(Padded(), [97, 256, 257, 98, 99]) == "a<id 256><id 257>bc"


def test_a_model_that_has_nothing_else_to_say_is_refused():
    class Mute(Padded):
        def next_logits(self, ids, count=1):
            logits = super().next_logits(ids, count)
            logits[:, :256] = -np.inf
            return logits

    with pytest.raises(EvaluationError, match="the probability of zero"):
        generate(Mute(), "abc")


def test_scratch_says_which():
    pytest.importorskip("torch")
    from evalgpt import load_plugins

    model = load_plugins().model("scratch:n_layers=1,n_heads=1,emb_dim=8,context_length=8,vocab_size=50304")
    assert model.unused_ids == range(50257, 50304)
    assert explain(model, "every effort moves", top=1000).texts[0].predictions[0].likeliest
