"""Minimal pairs: the documents, the accuracies against plain Python, the intervals, and what is refused."""

import json
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from support.models import BytesModel, hashed_loss

import evalgpt
from evalgpt import EvaluationError, UsageError
from evalgpt.core.plugins import load_plugins
from evalgpt.tasks.minimal_pairs import wilson

pytestmark = pytest.mark.numeric

PAIRS = [
    ("Who did they help?", "Who did who help?"),
    ("The cat sleeps.", "The cat sleep."),
    ("It rains a lot.", "It rain a lot, doesn't it?"),
]


def written(path, pairs, **extra):
    path.write_text("".join(json.dumps({"sentence_good": g, "sentence_bad": b, **extra}) + "\n" for g, b in pairs))
    return path


def task(spec):
    return load_plugins().task(f"minimal-pairs:{spec}")


def nll(text, context=""):
    ids = [256, *(context + text).encode()]
    return math.fsum(hashed_loss(tuple(ids[:i]), ids[i]) for i in range(1 + len(context.encode()), len(ids)))


def test_documents_come_in_labelled_pairs(tmp_path):
    documents = list(task(written(tmp_path / "agreement.jsonl", PAIRS)).documents())
    assert [(d.group, d.label, d.text) for d in documents[:2]] == [
        ("agreement/1", "good", PAIRS[0][0]),
        ("agreement/1", "bad", PAIRS[0][1]),
    ]
    assert len(documents) == 6


@pytest.mark.parametrize("context", ["", "Listen: "])
def test_accuracies_are_those_of_plain_sums(tmp_path, context):
    path = written(tmp_path / "p.jsonl", PAIRS, context=context)
    metrics = evalgpt.evaluate(BytesModel(context_length=64), task(path)).task_metrics
    sums = [(nll(g, context), nll(b, context), len(g.encode()), len(b.encode())) for g, b in PAIRS]
    assert metrics["pairs"] == 3
    assert metrics["accuracy"] == sum(g < b for g, b, _, _ in sums) / 3
    assert metrics["accuracy_per_byte"] == sum(g / m < b / n for g, b, m, n in sums) / 3
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"] or metrics["accuracy"] in (0, 1)


def test_a_folder_gives_an_accuracy_for_each_paradigm(tmp_path):
    written(tmp_path / "one.jsonl", PAIRS[:1])
    written(tmp_path / "two.jsonl", PAIRS[1:])
    metrics = evalgpt.evaluate(BytesModel(context_length=64), task(tmp_path)).task_metrics
    assert (metrics["pairs"], metrics["one.pairs"], metrics["two.pairs"]) == (3, 1, 2)
    together = metrics["one.accuracy"] + 2 * metrics["two.accuracy"]
    assert metrics["accuracy"] == pytest.approx(together / 3)


def test_pairs_of_two_equal_sentences_are_noted(tmp_path):
    for pairs, note in (
        ([("ab", "ab")], "1 pair has .* counts half$"),
        ([("ab", "ab")] * 2, "2 pairs have .* count half each$"),
    ):
        notes = evalgpt.evaluate(BytesModel(context_length=64), task(written(tmp_path / "p.jsonl", pairs))).notes
        assert any(re.search(note, line) for line in notes)


def test_equal_losses_count_half(tmp_path):
    path = written(tmp_path / "p.jsonl", [("ab", "cd")])
    model = BytesModel(lambda context, target: 1.0)
    assert evalgpt.evaluate(model, task(path)).task_metrics["accuracy"] == 0.5


def test_a_pair_of_equal_sentences_counts_half_with_a_note(tmp_path):
    """Whatever the model says: the two may be in batches that round differently."""
    path = written(tmp_path / "p.jsonl", [("ab", "cd"), ("ef", "ef"), ("gh", "gh")])
    losses = iter(range(1000, 0, -1))  # never the same twice, and the second sentence's is lower
    found = evalgpt.evaluate(BytesModel(lambda context, target: next(losses)), task(path))
    points = 3 * found.task_metrics["accuracy"]
    assert points in (1.0, 2.0)
    assert found.task_metrics["pairs"] == 3
    assert [note for note in found.notes if "2 pairs" in note and "p/2" in note]


@pytest.mark.parametrize(("times", "trials"), [((1, 1, 1), 3), ((5, 5, 5), 3), ((4, 1, 1), 2), ((7, 0, 0), 1)])
def test_repeated_pairs_count_once_in_the_interval(tmp_path, times, trials):
    pairs = [pair for pair, count in zip(PAIRS, times, strict=True) for _ in range(count)]
    found = evalgpt.evaluate(BytesModel(context_length=64), task(written(tmp_path / "p.jsonl", pairs)))
    metrics = found.task_metrics
    assert metrics["pairs"] == len(pairs)
    low, high = wilson(metrics["accuracy"] * trials, trials)
    assert (metrics["accuracy_low"], metrics["accuracy_high"]) == pytest.approx((low, high), rel=1e-12)
    repeated = [verdict.name for verdict in found.verdicts if verdict.name == "repeated_documents"]
    assert repeated == ["repeated_documents"] * (len(set(pairs)) < len(pairs))


def test_other_fields_can_be_named(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"right": "a b", "wrong": "b a"}\n')
    documents = list(task(f"{path},good=right,bad=wrong").documents())
    assert [d.text for d in documents] == ["a b", "b a"]
    with pytest.raises(
        EvaluationError, match="line 1 has no sentence in the field 'sentence_good'; it has right, wrong"
    ):
        list(task(path).documents())


@given(st.integers(0, 40), st.integers(1, 40))
def test_wilsons_interval_solves_its_equation(successes, trials):
    successes = min(successes, trials)
    low, high = wilson(successes, trials)
    share = successes / trials
    assert (low, high) == pytest.approx(tuple(binomtest(successes, trials).proportion_ci(method="wilson")), abs=1e-12)
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:  # where the share lies 1.96 of the bound's own standard errors away
            assert abs(share - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / trials), rel=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n", "holds no pairs"),
        ('{"sentence_good": "a"}', "no sentence in the field 'sentence_bad'"),
        ('{"sentence_good": "a", "sentence_bad": "b", "context": 3}', "context is a number"),
    ],
)
def test_pairs_that_cannot_be_used_are_named(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        list(task(path).documents())


def test_paths_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("EVALGPT_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="the folder blimp in EVALGPT_DATA, which is not there"):
        load_plugins().task("minimal-pairs")
    (tmp_path / "blimp").mkdir()
    written(tmp_path / "blimp" / "known.jsonl", PAIRS)
    assert len(list(task("known").documents())) == 6
    assert len(list(load_plugins().task("minimal-pairs").documents())) == 6
    with pytest.raises(UsageError, match="paradigms in EVALGPT_DATA: known"):
        task("unknown")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"holds no \.jsonl files"):
        task(tmp_path / "empty")


@pytest.mark.slow
def test_blimp_itself(tmp_path):
    folder = Path(os.environ.get("EVALGPT_DATA", ".")) / "blimp"
    if not folder.is_dir():
        pytest.skip("needs EVALGPT_DATA, a folder that holds blimp")
    small = "scratch:emb_dim=16,n_heads=2,n_layers=1,context_length=64"
    metrics = evalgpt.evaluate(small, "minimal-pairs:wh_island", device="cpu", tokens=False).task_metrics
    assert metrics["pairs"] == 1000
    assert 0 < metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"] < 1


def test_a_protocol_that_splits_texts_is_refused(tmp_path):
    path = written(tmp_path / "p.jsonl", PAIRS)
    with pytest.raises(EvaluationError, match="minimal pairs are scored whole"):
        evalgpt.evaluate(BytesModel(), task(path), "book:context=1")
