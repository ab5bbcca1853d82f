"""The six steps from logits to loss: the lecture's numbers, two ways that agree, and what cannot be explained."""

import itertools
import json
import math

import msgspec
import numpy as np
import pytest
import torch
from support.cli import SMALL, error_line, evalgpt, succeeded
from support.models import BytesModel

from evalgpt import Encoding, EvaluationError, Explanation, TokenScores, UsageError, explain
from evalgpt.core.plugins import load_plugins
from evalgpt.report import json_schema

pytestmark = pytest.mark.numeric

LECTURE = ("every effort moves you", "I really like chocolate")


@pytest.fixture(scope="module")
def small():
    return load_plugins().model(SMALL, device="cpu")


def every(found):
    return [p for text in found.texts for p in text.predictions]


# numbers


@pytest.mark.slow
def test_the_lecture(capsys):
    found = explain("scratch", LECTURE, device="cpu")
    ids = [[token.id for token in text.tokens] for text in found.texts]
    assert ids == [[16833, 3626, 6100, 345], [40, 1107, 588, 11311]]
    assert [[(p.input.id, p.target.id) for p in text.predictions] for text in found.texts] == [
        list(itertools.pairwise(row)) for row in ids
    ]
    published = [7.4541e-05, 3.1061e-05, 1.1563e-05, 1.0337e-05, 5.6776e-05, 4.7559e-06]  # five digits, in float32
    assert [p.probability for p in every(found)] == pytest.approx(published, rel=5e-5)
    assert found.mean_log_probability == pytest.approx(-10.7940, abs=5e-5)
    assert found.loss == -found.mean_log_probability
    assert found.perplexity == pytest.approx(48725.82, abs=0.1)
    assert [text.predictions[0].target.text for text in found.texts] == [" effort", " really"]


@pytest.mark.parametrize("keys", ["", ",vocab_size=50300"])
@pytest.mark.parametrize("prefix", [False, True])
def test_every_step_is_what_torch_makes_of_the_logits(keys, prefix):
    model = load_plugins().model(SMALL + keys, device="cpu")
    found = explain(model, ["Every effort moves you.", "Größe 😀"], prefix=prefix, top=4)
    total = []
    for text in found.texts:
        ids = [*([50256] if prefix else []), *(token.id for token in text.tokens)]
        with torch.inference_mode():
            logits = model.module(torch.tensor([ids[:-1]]))[0].double()
        probabilities = torch.softmax(logits, -1)
        targets = torch.tensor(ids[1:])
        expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        total += expected.tolist()
        assert [p.score for p in text.predictions] == pytest.approx(expected.tolist(), abs=1e-5)
        assert [-p.log_probability for p in text.predictions] == pytest.approx(expected.tolist(), abs=1e-5)
        assert [p.logit for p in text.predictions] == pytest.approx(logits.gather(1, targets[:, None])[:, 0].tolist())
        assert [p.predicted.id for p in text.predictions] == logits.argmax(1).tolist()
        top = probabilities.topk(4)
        assert [[c.token.id for c in p.likeliest] for p in text.predictions] == top.indices.tolist()
        for p, values, row, target in zip(text.predictions, top.values.tolist(), logits, targets, strict=True):
            assert [c.probability for c in p.likeliest] == pytest.approx(values)
            assert p.probability == pytest.approx(math.exp(p.logit - p.log_normaliser))
            assert p.rank == int((row > row[target]).sum())
    assert found.loss == pytest.approx(np.mean(total), abs=1e-6)
    assert found.cross_entropy == pytest.approx(found.loss, abs=1e-5)
    assert 0 < found.largest_difference < 1e-5


@pytest.mark.slow
def test_full_logits_of_transformers(tmp_path):
    hf_models = pytest.importorskip("support.hf_models", reason="needs the extra hf")
    reference = hf_models.save(tmp_path)
    model = hf_models.build(tmp_path)
    for spec in (model, hf_models.build(tmp_path, tiled="false")):
        found = explain(spec, "every effort moves you 😀")
        ids = torch.tensor([[token.id for token in found.texts[0].tokens]])
        with torch.inference_mode():
            loss = reference(ids, labels=ids).loss.item()
        assert found.loss == pytest.approx(loss, abs=1e-5)
        assert found.largest_difference < 1e-5


def test_a_shifted_score_is_seen(small):
    class Wrong(type(small)):
        def score(self, windows, detail=None):
            return [TokenScores(scores.nll + np.float32(0.25)) for scores in super().score(windows, detail)]

    small_wrong = object.__new__(Wrong)
    small_wrong.__dict__.update(small.__dict__)
    assert explain(small_wrong, "Every effort").largest_difference == pytest.approx(0.25, abs=1e-5)


# models that give less


def test_a_model_without_logits_begins_at_step_three():
    found = explain(BytesModel(), ["Größe", "Hi"])
    assert found.largest_difference is None
    assert [p.logit for p in every(found)] == [None] * (6 + 1)
    expected = [BytesModel().loss(tuple(b"Hi"[:1]), b"Hi"[1])]
    assert [p.score for p in found.texts[1].predictions] == expected
    assert found.texts[1].predictions[0].probability == pytest.approx(math.exp(-expected[0]))
    assert found.texts[1].predictions[0].predicted is None
    assert [token.text for token in found.texts[0].tokens] == ["G", "r", "\\xc3", "\\xb6", "\\xc3", "\\x9f", "e"]


def test_a_model_without_logits_still_names_what_it_held_likely():
    class Top(BytesModel):
        def score(self, windows, detail=None):
            return [
                TokenScores(
                    scores.nll,
                    rank=np.arange(len(scores.nll)),
                    top_ids=np.tile([97, 98], (len(scores.nll), 1)),
                    top_logprobs=np.tile(np.log([0.5, 0.25]), (len(scores.nll), 1)),
                )
                for scores in super().score(windows)
            ]

    (text,) = explain(Top(), "xyz", top=2).texts
    assert [c.token.text for c in text.predictions[1].likeliest] == ["a", "b"]
    assert text.predictions[0].predicted.text == "a"
    assert text.predictions[0].likeliest[1].probability == pytest.approx(0.25)
    assert [p.rank for p in text.predictions] == [0, 1]


def test_forbidden_tokens_are_no_candidates(small):
    class Few(type(small)):
        """Holds but two tokens possible."""

        def next_logits(self, ids, count=1):
            logits = np.full((count, self.vocab_size), -np.inf, np.float32)
            logits[:, [3626, 40]] = 1.0
            return logits

    few = object.__new__(Few)
    few.__dict__.update(small.__dict__)
    found = explain(few, "Every effort", top=5)
    (prediction,) = every(found)
    assert [c.token.id for c in prediction.likeliest] == [40, 3626]
    assert prediction.probability == pytest.approx(0.5, rel=1e-12)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Explanation) == found


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(small, value):
    class Broken(type(small)):
        def next_logits(self, ids, count=1):
            logits = super().next_logits(ids, count)
            logits[0, 5] = value
            return logits

    broken = object.__new__(Broken)
    broken.__dict__.update(small.__dict__)
    with pytest.raises(EvaluationError, match="logits that are no numbers"):
        explain(broken, "Every effort")


def test_losses_too_many_are_refused():
    class More(BytesModel):
        def score(self, windows, detail=None):
            return [TokenScores(np.append(scores.nll, np.float32(1))) for scores in super().score(windows)]

    with pytest.raises(EvaluationError, match=r"returned losses of shape \(3,\) for 2 scored tokens"):
        explain(More(), "abc")


def test_a_model_without_byte_spans(small):
    class Spanless(type(small)):
        def encode(self, text):
            return Encoding(super().encode(text).ids, None)

    model = object.__new__(Spanless)
    model.__dict__.update(small.__dict__)
    (text,) = explain(model, "every effort moves").texts
    assert [token.text for token in text.tokens] == ["every", " effort", " moves"]
    assert text.byte_starts is None


def test_one_token_behind_a_prefix(small):
    found = explain(small, "Hi", prefix=True)
    assert (found.prefix.id, found.prefix.text) == (50256, "<|endoftext|>")
    (prediction,) = every(found)
    assert (prediction.input.id, prediction.target.text) == (50256, "Hi")


def test_an_improbable_text_has_no_finite_perplexity():
    found = explain(BytesModel(lambda context, target: 800.0), "abc")
    assert found.perplexity is None
    assert every(found)[0].probability == 0.0


# refusals


@pytest.mark.parametrize(
    ("texts", "options", "error", "says"),
    [
        ([], {}, EvaluationError, "no text"),
        ([""], {}, EvaluationError, "text 1 is empty"),
        (["fine, this is", ""], {"prefix": True}, EvaluationError, "text 2 is empty"),
        (["Hi"], {}, EvaluationError, "text 1 has 1 token"),
        (["a \ud800 b"], {}, EvaluationError, "text 1 is not UTF-8"),
        (["one two three " * 30], {}, UsageError, "feeds 90 tokens, more than the 64"),
        (["a b"], {"top": -1}, UsageError, "top must be at least 0"),
        (["a b"], {"device": "cpu"}, UsageError, "already built"),
    ],
)
def test_what_cannot_be_explained(small, texts, options, error, says):
    with pytest.raises(error, match=says):
        explain(small, texts, **options)


def test_the_context_is_full_at_its_length():
    model = BytesModel(context_length=4)
    assert len(every(explain(model, "abcde"))) == 4
    assert len(every(explain(model, "abcd", prefix=True))) == 4
    for text, prefix in (("abcdef", False), ("abcde", True)):
        with pytest.raises(UsageError, match="feeds 5 tokens"):
            explain(model, text, prefix=prefix)


def test_a_model_without_a_prefix_has_none_to_put():
    with pytest.raises(UsageError, match="neither BOS nor EOS"):
        explain(BytesModel(prefix_id=None), "abc", prefix=True)


# the command


def test_the_command_prints_the_steps():
    out = succeeded(evalgpt("explain", *LECTURE, "-m", SMALL)).stdout
    found = explain(SMALL, LECTURE)
    rows = [" ".join(f"{p.probability:.4e}" for p in text.predictions) for text in found.texts]
    for part in (*(f"text {n}: {row}" for n, row in enumerate(rows, 1)), '3626 " effort"', f"{found.perplexity:.2f}"):
        assert part in out
    steps = [line for line in out.splitlines() if line[:2] in {f"{n}." for n in range(1, 7)}]
    assert [line[0] for line in steps] == list("123456")
    assert steps[-1] == f"6. Its negative, the loss: {found.loss:.4f} nats per token"


def test_the_document_is_typed_and_the_same_on_every_way_out(tmp_path):
    command = ("explain", *LECTURE, "-m", SMALL)
    result = succeeded(evalgpt(*command, "--json"))
    assert "6. Its negative" in result.stderr
    found = msgspec.json.decode(result.stdout, type=Explanation)
    assert found.schema == "evalgpt.explanation/1"
    assert found.loss == pytest.approx(explain(SMALL, LECTURE).loss, abs=1e-6)
    succeeded(evalgpt(*command, "-o", str(tmp_path / "a.json")))
    assert json.loads((tmp_path / "a.json").read_text())["texts"] == json.loads(result.stdout)["texts"]
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(succeeded(evalgpt("schema", "explanation")).stdout)
    assert schema == json_schema(Explanation)
    jsonschema.validate(json.loads(result.stdout), schema)


def test_standard_input_is_a_text_without_its_last_line_break():
    given = succeeded(evalgpt("explain", "-", "-m", SMALL, input="every effort\n")).stdout
    assert given == succeeded(evalgpt("explain", "every effort", "-m", SMALL)).stdout
    two = succeeded(evalgpt("explain", "-", "-m", SMALL, input="every\r\n\n")).stdout
    assert '"\\r"' in two  # only the last is no part of the text


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "give a text"),
        (["-", "-"], 2, "give - once"),
        (["Hi"], 1, "--prefix"),
        ([""], 1, "text 1 is empty"),
        (["word " * 80], 2, "more than the 64"),
        (["a b", "--json", "-o", "x.json"], 2, "give one of them"),
        (["a b", "-o", "nothere/x.json"], 2, "there is no folder"),
        (["a b", "--top", "-1"], 2, "--top"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, args, code, says):
    monkeypatch.chdir(tmp_path)
    result = evalgpt("explain", *args, "-m", SMALL)
    assert (result.exit_code, result.stdout) == (code, "")
    error_line(result.stderr, says)


def test_input_that_is_not_utf8_is_one_line():
    error_line(evalgpt("explain", "-", "-m", SMALL, input=b"caf\xe9 x").stderr, "standard input is not UTF-8: byte 3")
    argument = evalgpt("explain", "caf\udce9 x", "-m", SMALL)
    assert argument.exit_code == 1
    error_line(argument.stderr, "text 1 is not UTF-8")
