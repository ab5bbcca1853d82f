"""Batches, order and refusals of the engine, and the public evaluate()."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import BytesModel, hashed_loss, uniform_loss

import evalgpt
from evalgpt import Document, EvaluationError, Task, TokenScores, UsageError
from evalgpt.core.plugins import load_plugins
from evalgpt.scoring.batching import BatchSize, Scorer, batches
from evalgpt.scoring.engine import Reporter, answer_batches, score_documents

pytestmark = pytest.mark.numeric


class Texts(Task):
    name = "texts"

    def __init__(self, *documents, protocol="exact"):
        self.given = [d if isinstance(d, Document) else Document(str(i), d) for i, d in enumerate(documents)]
        self.default_protocol = protocol

    def documents(self):
        return iter(self.given)


@given(st.lists(st.integers(1, 50)), st.integers(1, 120))
def test_batches_hold_every_window_once_within_the_bound(lengths, bound):
    made = list(batches(lengths, BatchSize(bound)))
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= bound
    sizes = [lengths[i] for batch in made for i in batch]
    assert sizes == sorted(sizes, reverse=True)


@settings(deadline=None)  # the first example loads the plugins
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=6), st.integers(1, 100))
def test_what_is_in_a_batch_changes_no_number(texts, batch_tokens):
    if sum(len(text.encode()) for text in texts) < 2:
        return
    task = Texts(*texts)
    ours = evalgpt.evaluate(BytesModel(), task, batch_tokens=batch_tokens)
    one = evalgpt.evaluate(BytesModel(), task, batch_tokens=10**6)
    assert ours.metrics == one.metrics
    assert ours.rows == one.rows
    assert ours.ledger == one.ledger


def test_losses_come_back_in_the_order_of_the_text():
    text = "the cat sat on the mat and would not be moved from it"
    evaluation = evalgpt.evaluate(BytesModel(context_length=8), Texts(text), "exact:stride=8", batch_tokens=20)
    ids = list(text.encode())
    stream = [256, *ids]
    expected = [hashed_loss(tuple(stream[(i // 8) * 8 : i + 1]), ids[i]) for i in range(len(ids))]
    assert np.float32(evaluation.rows[0].tokenized.nll).tolist() == expected
    assert evaluation.metrics.loss == pytest.approx(math.fsum(expected) / len(expected), abs=1e-12)


def test_a_uniform_model_is_uniform():
    evaluation = evalgpt.evaluate(BytesModel(uniform_loss), Texts("hello world"))
    assert evaluation.metrics.perplexity == pytest.approx(257, rel=1e-6)
    assert evaluation.metrics.bits_per_byte == pytest.approx(math.log2(257), rel=1e-6)


def test_progress_ends_at_the_total():
    seen = []
    evalgpt.evaluate(BytesModel(), Texts("a" * 100), batch_tokens=32, progress=seen.append)
    assert len(seen) > 1
    assert (seen[-1].done, seen[-1].total) == (100, 100)
    assert [p.done for p in seen] == sorted(p.done for p in seen)


@pytest.mark.parametrize("prefix", [256, None])
@pytest.mark.parametrize("texts", [["a"], ["a", "b"], ["", "a"]], ids=["alone", "together", "beside an empty one"])
@pytest.mark.parametrize("long", [0, 1], ids=["whole", "in parts"])
def test_one_token_has_a_loss_behind_a_prefix_alone_or_together(texts, prefix, long):
    model, task = BytesModel(prefix_id=prefix), Texts(*texts)
    task.long = long
    if prefix is not None:
        assert evalgpt.evaluate(model, task).metrics.scores == len("".join(texts))
        return
    with pytest.raises(EvaluationError, match=r"a loss needs at least 2|nothing to score"):
        evalgpt.evaluate(model, task)


@pytest.mark.parametrize("long", [0, 1], ids=["whole", "in parts"])
def test_no_token_has_no_loss(long):
    task = Texts("")
    task.long = long
    with pytest.raises(EvaluationError, match="a loss needs at least 2"):
        evalgpt.evaluate(BytesModel(), task)


def test_a_single_token_after_a_context_is_enough():
    evaluation = evalgpt.evaluate(BytesModel(), Texts(Document("d", "b", context="a")))
    assert evaluation.metrics.scores == 1


def test_a_text_without_a_window_is_refused_and_one_among_others_is_told():
    with pytest.raises(EvaluationError, match="nothing to score"):
        evalgpt.evaluate(BytesModel(), Texts("abc"), "book:context=8")
    evaluation = evalgpt.evaluate(BytesModel(), Texts("abc" * 30, "abc"), "book:context=8")
    assert evaluation.ledger.unscored_pieces == 2
    assert any("too short" in note for note in evaluation.notes)


def test_ids_outside_the_vocabulary_are_refused():
    model = BytesModel()
    model.vocab_size, model.prefix_id = 100, None
    with pytest.raises(EvaluationError, match="token id 122 in document '0' is outside"):
        evalgpt.evaluate(model, Texts("az"))


class Wrong(BytesModel):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def score(self, windows, detail=None):
        return self.change(super().score(windows, detail))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores[:-1], "answered 0 windows of 1"),
        (lambda scores: [TokenScores(s.nll[1:]) for s in scores], r"returned losses of shape \(4,\) for 5"),
        (lambda scores: [TokenScores(s.nll * np.float32("nan")) for s in scores], "NaN"),
    ],
)
def test_a_model_that_answers_wrongly_is_named(change, message):
    with pytest.raises(EvaluationError, match=message):
        evalgpt.evaluate(Wrong(change), Texts("hello"))


def test_device_goes_with_a_spec_only():
    with pytest.raises(UsageError, match="already built"):
        evalgpt.evaluate(BytesModel(), Texts("hello"), device="cpu")


def test_rows_are_lean_on_request():
    assert all(row.tokenized is None for row in evalgpt.evaluate(BytesModel(), Texts("hello"), tokens=False).rows)


def test_the_texts_hash_is_that_of_the_file_or_of_the_list():
    import hashlib

    one = evalgpt.evaluate(BytesModel(), Texts("hello"))
    assert one.task.sha256 == hashlib.sha256(b"hello").hexdigest()
    hashes = {evalgpt.evaluate(BytesModel(), Texts(*t)).task.sha256 for t in (("ab", "c"), ("a", "bc"), ("abc",))}
    assert len(hashes) == 3


def test_splits_have_their_own_rows_and_offsets():
    text = "é" * 40
    model = BytesModel()
    protocol = load_plugins().protocol("book:context=4").bind(model)
    rows = score_documents(Scorer(model, BatchSize(64)), [Document("d", text)], protocol).rows
    assert [(row.split, row.text, row.offset) for row in rows] == [
        ("train", text[:36], 0),
        ("validation", text[36:], 72),
    ]


def test_task_metrics_are_reported():
    class Counting(Texts):
        def metrics(self, rows):
            return {"rows": float(len(list(rows)))}

    assert evalgpt.evaluate(BytesModel(), Counting("ab", "cd")).task_metrics == {"rows": 2.0}


def test_progress_is_told_after_each_batch_and_a_batch_is_asked_for_when_the_last_is_answered():
    windows = [evalgpt.Window([0] * (n + 1), 1) for n in (3, 1, 2)]
    told, asked = [], []

    def batches():
        for batch in ([2, 0], [1]):
            asked.append(batch)
            yield batch

    def answer(batch):
        return [np.full(len(windows[i].ids) - 1, i, np.float32) for i in batch]

    found = answer_batches(batches(), answer, Reporter(told.append, windows, lambda losses: losses))
    assert next(found)[0] == 2
    assert (asked, told) == ([[2, 0]], [])
    assert [number for number, _ in found] == [0, 1]
    assert [(p.done, p.total, p.loss) for p in told] == [(5, 6, 4 / 5), (6, 6, 5 / 6)]


def test_a_batch_with_an_answer_too_few_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        list(answer_batches([[0, 1]], lambda batch: [1]))
