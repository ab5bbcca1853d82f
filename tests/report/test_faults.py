"""What is wrong with texts: marks, NULs, UTF-16 read as UTF-8, and documents that repeat others."""

import numpy as np
import pytest
from support.models import BytesModel

import evalgpt
from evalgpt.report.repeats import fold_repeats, originals_of
from evalgpt.scoring import cells
from evalgpt.studies.compare.comparison import compare, summarise

TEXTS = [f"The mill of number {n} stood by the river, {'and its wheel turned. ' * (1 + n % 3)}" for n in range(8)]


class Texts(evalgpt.Task):
    name = "texts"

    def __init__(self, *texts, long=0):
        self.texts, self.long = texts, long

    def documents(self):
        for number, text in enumerate(self.texts):
            whole = evalgpt.Document(f"d{number}", text)
            parts = [text[i : i + 7] for i in range(0, len(text), 7)]
            yield evalgpt.Document(f"d{number}", "", parts=lambda parts=parts: parts) if self.long else whole


def mild(context, target):
    """A loss from 1 to 3.5 nats, so that no verdict is on the loss."""
    return 1 + (len(context) * 5 + target) % 11 / 4


def evaluation(*texts, long=0):
    return evalgpt.evaluate(BytesModel(mild), Texts(*texts, long=long))


def verdicts(*texts, long=0):
    return {verdict.name: verdict.message for verdict in evaluation(*texts, long=long).verdicts}


@pytest.mark.parametrize("long", [0, 1], ids=["whole", "in parts"])
@pytest.mark.parametrize(
    ("texts", "name", "says"),
    [
        (["\ufeffA text", "another"], "byte_order_mark", ["1 of 2 documents", "d0 at character 0"]),
        (["A text", "another\ufeff one, \ufeff two"], "byte_order_mark", ["1 of 2", "d1 at character 7"]),
        (["A text", "another wi\0th a few\0"], "nul", ["1 of 2 documents", "d1 at character 10"]),
        (["A text".encode("utf-16-le").decode()], "utf16", ["iconv -f UTF-16LE -t UTF-8"]),
        (["A text".encode("utf-32-le").decode()], "utf32", ["iconv -f UTF-32LE -t UTF-8"]),
        (["A text".encode("utf-32-be").decode()], "utf32", ["iconv -f UTF-32BE -t UTF-8"]),
        (["A text".encode("utf-16-be").decode()], "utf16", ["iconv -f UTF-16BE -t UTF-8"]),
        (["A text", "another", "A text", "A text"], "repeated_documents", ["2 of 4", "d2 repeats d0"]),
    ],
)
def test_each_fault_of_a_text_has_a_verdict(texts, name, says, long):
    found = verdicts(*texts, long=long)
    assert set(found) == {name}
    assert all(part in found[name] for part in says), found[name]


@pytest.mark.parametrize("long", [0, 1], ids=["whole", "in parts"])
def test_sound_texts_have_none(long):
    assert verdicts(*TEXTS, "naïve café ﷽ 漢字", long=long) == {}


def test_a_group_repeats_as_a_whole():
    parts = [("p1", "a"), ("p1", "b"), ("p2", "a"), ("p2", "c"), ("p3", "a"), ("p3", "b"), ("p4", "b"), ("p4", "a")]
    assert originals_of(parts) == [0, 1, 2, 3, 0, 1, 6, 7]


def test_the_same_text_behind_another_context_is_no_repeat():
    class Continuations(evalgpt.Task):
        name = "continuations"

        def documents(self):
            for number, context in enumerate(["Paris is in", "Lyon is in", "Paris is in"]):
                yield evalgpt.Document(str(number), " France", context)

    (verdict,) = evalgpt.evaluate(BytesModel(mild), Continuations()).verdicts
    assert "1 of 3" in verdict.message


@pytest.mark.parametrize("long", [0, 1], ids=["whole", "in parts"])
def test_one_text_many_times_has_the_interval_of_one(long):
    text = "The mill stood by the river. " * 3
    once, many = evaluation(text, long=long), evaluation(*[text] * 200, long=long)
    assert many.metrics.loss == pytest.approx(once.metrics.loss, rel=1e-12)
    assert many.metrics.uncertainty.units == once.metrics.uncertainty.units == len(text)
    for name in ("loss", "bits_per_byte"):
        assert getattr(many.metrics.uncertainty, name) == pytest.approx(getattr(once.metrics.uncertainty, name))
    assert evaluation(*["a short line"] * 200, long=long).metrics.uncertainty is None


@pytest.mark.parametrize("long", [0, 1], ids=["whole", "in parts"])
def test_a_corpus_twice_has_the_interval_of_one(long):
    once, twice = evaluation(*TEXTS, long=long), evaluation(*TEXTS, *TEXTS, long=long)
    assert once.metrics.uncertainty.method == "clusters"
    assert twice.metrics.uncertainty.units == len(TEXTS)
    assert twice.metrics.uncertainty.loss == pytest.approx(once.metrics.uncertainty.loss, rel=1e-12)
    assert twice.metrics.uncertainty.bits_per_byte == pytest.approx(once.metrics.uncertainty.bits_per_byte, rel=1e-12)


def test_unequal_copies_are_weighed():
    """A document three times is a cluster of three times the weight, as if its tokens were three."""
    found = evaluation(TEXTS[0], *TEXTS, TEXTS[0]).metrics
    losses = [row.tokenized.nll for row in evaluation(*TEXTS).rows]
    from evalgpt.report.statistics import ratio_estimate

    document = np.repeat(np.arange(8), [len(row) for row in losses])
    weight = np.where(document == 0, 3.0, 1.0)
    wanted = ratio_estimate(np.concatenate(losses) * weight, weight, document)
    assert found.loss == pytest.approx(wanted.value, rel=1e-6)
    assert found.uncertainty.loss_error == pytest.approx(wanted.standard_error, rel=1e-6)


def test_a_comparison_takes_copies_as_one_document():
    def pair(*texts):
        other = BytesModel(lambda context, target: 1 + ((len(context) * 7 + target) % 13) / 4)
        return compare(evaluation(*texts), evalgpt.evaluate(other, Texts(*texts)))

    once, twice = pair(*TEXTS), pair(*TEXTS, *TEXTS)
    for name in ("loss_difference", "bits_per_byte_difference"):
        one, other = getattr(once, name), getattr(twice, name)
        assert other.standard_error == pytest.approx(one.standard_error, rel=1e-9)
        assert other.units == one.units == len(TEXTS)
    assert pair(*["a short line"] * 200).loss_difference.standard_error is None


def test_a_divergence_takes_copies_as_one_document():
    kl = np.random.default_rng(0).exponential(size=30)
    same, at, one = np.ones(60, bool), np.tile(np.arange(30), 2), np.zeros(30, int)
    alone = summarise(kl, same[:30], one, (one, at[:30]), [0])
    twice = summarise(np.tile(kl, 2), same, np.repeat([0, 1], 30), (np.repeat([0, 1], 30), at), [0, 0])
    assert twice.mean.units == alone.mean.units == 30
    assert twice.mean.standard_error == pytest.approx(alone.mean.standard_error, rel=1e-12)
    assert twice.tokens == 60


def test_copies_whose_originals_have_no_scores_stay_documents_of_their_own():
    """As in a sample of windows: rows 0 and 1 are the originals of 2 and 3, of which alone something was scored."""
    losses, row = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2, 2, 3, 4])
    (folded,), document = fold_repeats([losses], row.copy(), (row, np.array([0, 1, 0, 0])), [0, 1, 0, 1, 0])
    assert len(set(document)) == 2
    assert sorted(folded) == [2, 3, 5]
    assert [folded[document == d].sum() for d in sorted(set(document), key=lambda d: folded[document == d].sum())] == [
        3,
        7,
    ]


@pytest.mark.parametrize("copies", [0, 300])
@pytest.mark.parametrize("size", [8, 64, 512])
def test_short_texts_in_parts_have_the_interval_of_whole_ones(monkeypatch, copies, size):
    """Cells wider than the texts would mix copies with others: the interval was up to 35 times too narrow."""
    texts = [f"{'abcdefgh'[n % 8] * (5 + n % 11)} {n}" for n in range(300)]
    mixed = [text for n, text in enumerate(texts) for text in [text] + ["once more zzz"] * (copies > n)]
    monkeypatch.setattr(cells, "CELLS", size)
    parts, whole = (evaluation(*mixed, long=long).metrics.uncertainty for long in (1, 0))
    assert parts.method == whole.method == "clusters"
    assert parts.loss == pytest.approx(whole.loss, rel=1e-9)
    assert parts.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-9)
