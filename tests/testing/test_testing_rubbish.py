"""The conformance kit given answers of other types: each is named for what it is, by every check that reads it."""

import dataclasses

import numpy as np
import pytest
import torch
from support.broken_models import but, claims
from support.sound_models import Sound

from evalgpt import Encoding, TokenScores, testing
from evalgpt.testing import CHECKS, CheckFailed, Subject, run_check, run_checks


def answering(change):
    """An adapter whose answer is ``change(scores)``."""
    return but("Answers something else.", score=lambda self, *given: change(Sound.score(self, *given)))


def detailing(**parts):
    """An adapter whose detail has other ``parts``: functions of the true one."""

    def score(self, windows, detail=None):
        scores = Sound.score(self, windows, detail)
        return [
            dataclasses.replace(s, **{n: f(part) for n, f in parts.items() if (part := getattr(s, n)) is not None})
            for s in scores
        ]

    return but("Answers another detail.", score=score)


async def coroutine(self, windows, detail=None):
    return []


SCORES = {
    "None": (lambda scores: None, "NoneType"),
    "number": (lambda scores: 7, "int"),
    "dict": (lambda scores: dict(enumerate(scores)), "dict"),
    "Nones": (lambda scores: [None] * len(scores), "NoneType"),
    "arrays": (lambda scores: [s.nll for s in scores], "ndarray"),
    "no losses": (lambda scores: [TokenScores(None) for _ in scores], "NoneType"),
    "text": (lambda scores: [TokenScores("abc") for _ in scores], "str"),
    "complex": (lambda scores: [TokenScores(s.nll.astype(complex)) for s in scores], "complex128"),
    "objects": (lambda scores: [TokenScores(np.array([object()] * len(s.nll))) for s in scores], "object"),
    "NaN": (lambda scores: [TokenScores(s.nll * np.float32(np.nan)) for s in scores], "NaN"),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("check", ["losses", "repeatable", "windows_kept", "context_limit", "vocabulary", "lengths"])
def test_scores_of_another_type_are_named_by_every_check(name, check):
    change, word = SCORES[name]
    outcome = run_check(Subject(lambda: answering(change)(0)), check)
    assert outcome.status == "failed"
    assert word in outcome.message
    assert "is context_length overstated" not in outcome.message


def test_a_coroutine_is_named_and_closed(recwarn):
    outcome = run_check(Subject(lambda: but("Is async.", score=coroutine)(0)), "losses")
    assert "coroutine" in outcome.message
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


DETAILS = {
    "rank of floats": {"rank": lambda rank: rank + 0.5},
    "rank of no length": {"rank": lambda rank: np.zeros(0, int)},
    "rank a text": {"rank": lambda rank: "abc"},
    "entropy of two columns": {"entropy": lambda entropy: np.stack([entropy] * 2, 1)},
    "top_ids of floats": {"top_ids": lambda ids: ids.astype(float)},
    "top_ids of one dimension": {"top_ids": lambda ids: ids[:, 0]},
    "top_ids beyond the vocabulary": {"top_ids": lambda ids: ids + 10**6},
    "top_ids without top_logprobs": {"top_logprobs": lambda logs: None},
}


@pytest.mark.parametrize("name", DETAILS)
def test_details_of_another_type_are_named(name):
    outcome = run_check(Subject(lambda: detailing(**DETAILS[name])(0)), "detail")
    assert outcome.status == "failed"
    assert name.split()[0] in outcome.message
    assert "raised" not in outcome.message


ATTRIBUTES = [
    *(("vocab_size", value) for value in ("50257", None, 0, -5, 1, 260.0, True, 10**12)),
    *(("context_length", value) for value in (None, 0, 48.0)),
    *(("prefix_id", value) for value in ("256", 256.0, -1)),
    *(("dtype", value) for value in (None, [], np.float32)),
    ("fingerprint", b"x"),
]


@pytest.mark.parametrize(("name", "value"), ATTRIBUTES)
def test_an_attribute_of_another_type_is_named_by_every_check(name, value):
    """So that it is said once: checks that fail as an earlier one did are told to be the same."""
    outcomes = list(run_checks(Subject(lambda: claims("Says something else.", **{name: value})(0))))
    assert {o.status for o in outcomes} == {"failed"}
    assert len({o.message for o in outcomes}) == 1
    assert outcomes[0].message.startswith(name)


@pytest.mark.parametrize(
    ("check", "name", "value"),
    [("decode_every_id", "unused_ids", None), ("attributes", "equal_lengths", "no"), ("attributes", "config", None)],
)
def test_an_attribute_that_few_checks_read_is_named_by_them(check, name, value):
    outcome = run_check(Subject(lambda: claims("Says something else.", **{name: value})(0)), check)
    assert outcome.status == "failed"
    assert outcome.message.startswith(name)


TEXTS = {
    "encode-none": ({"encode": lambda self, text: None}, "NoneType"),
    "encode-list": ({"encode": lambda self, text: list(text.encode())}, "list"),
    "encode-floats": ({"encode": lambda self, text: Encoding([i + 0.5 for i in text.encode()], None)}, "whole numbers"),
    "encode-texts": ({"encode": lambda self, text: Encoding(list(text), None)}, "whole numbers"),
    "encode-nothing": ({"encode": lambda self, text: Encoding(None, None)}, "NoneType"),
    "encode-once": ({"encode": lambda self, text: Encoding(iter(text.encode()), None)}, "iterator"),
    "encode-nested": ({"encode": lambda self, text: Encoding([list(text.encode())], None)}, "list"),
    "encode-negative": ({"encode": lambda self, text: Encoding([-1 for _ in text], None)}, "outside the vocabulary"),
    "decode-none": ({"decode": lambda self, ids: None}, "NoneType"),
    "decode-bytes": ({"decode": lambda self, ids: b"x"}, "bytes"),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("check", ["round_trip", "text_kept", "special_text"])
def test_a_tokenizer_of_another_type_is_named_by_every_check(name, check):
    methods, word = TEXTS[name]
    outcome = run_check(Subject(lambda: but("Answers something else.", **methods)(0)), check)
    assert outcome.status == "failed"
    assert word in outcome.message
    assert "raise" not in outcome.message


@pytest.mark.parametrize(
    ("spans", "word"), [(lambda n: [None] * n, "byte span 0"), (lambda n: 5, "int"), (lambda n: "ab", "2 byte spans")]
)
def test_byte_spans_that_are_no_pairs_are_named(spans, word):
    def encode(self, text):
        return Encoding(list(text.encode()), spans(len(text.encode())))

    outcome = run_check(Subject(lambda: but("No pairs.", encode=encode)(0)), "byte_spans")
    assert word in outcome.message
    assert "raised" not in outcome.message


def test_pytest_is_told_the_same():
    mark = testing.parametrize(lambda: claims("Too small.", vocab_size=0)(0))
    for case, name in zip(mark.args[1], CHECKS, strict=True):
        assert case.id == name
        with pytest.raises(CheckFailed, match="vocab_size"):
            case.values[0]()


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
def test_ids_of_numpy_and_torch_are_ids(kind):
    def encode(self, text):
        return Encoding(kind(list(text.encode())), None)

    for check in ("encode_ids", "round_trip", "logits"):
        assert run_check(Subject(lambda: but("Other ids.", encode=encode)(0)), check).status == "passed"
