"""Sanity verdicts: each fires on what it is for, and on nothing else."""

import math

import pytest
from support.models import BytesModel, uniform_loss

import evalgpt
from evalgpt.report import read_report, write_report
from evalgpt.studies.compare.comparison import compare
from evalgpt.views.terminal.comparison import print_comparisons
from evalgpt.views.wording.evaluation import sentences

UNIFORM = math.log(257)


class Text(evalgpt.Task):
    name = "text"

    def __init__(self, *texts):
        self.texts = texts or ("Every effort moves you, and I really like chocolate.",)

    def documents(self):
        for number, text in enumerate(self.texts):
            yield evalgpt.Document(str(number), text)


def constant(loss):
    return lambda context, target: loss


def verdicts(loss=2.0, *, trained=None, task=None, protocol="exact", **model):
    built = BytesModel(constant(loss), **{"context_length": 32, **model})
    built.trained = trained
    return evalgpt.evaluate(built, task or Text(), protocol).verdicts


def names(*args, **options):
    return [verdict.name for verdict in verdicts(*args, **options)]


def test_a_plausible_number_has_none():
    assert names() == []
    assert names(trained=True) == []
    assert names(UNIFORM - 0.1, trained=False) == []


def test_worse_than_uniform():
    assert names(UNIFORM + 0.01) == ["worse_than_uniform"]
    assert names(UNIFORM - 0.01) == []
    (drawn,) = verdicts(UNIFORM + 0.01, trained=False)
    (loaded,) = verdicts(UNIFORM + 0.01, trained=True)
    assert drawn.message.endswith("as weights drawn at random are")
    assert "shifted" in loaded.message


def test_loaded_weights_that_score_like_random_ones():
    assert names(0.9 * UNIFORM, trained=True) == ["like_random"]
    assert names(0.9 * UNIFORM, trained=False) == []


def test_weights_drawn_at_random_that_know_the_answer():
    assert names(UNIFORM - 1.5, trained=False) == ["target_leak"]
    assert names(UNIFORM - 1.5, trained=True) == []


def test_too_good_to_be_true():
    assert names(0.2) == ["too_good"]
    assert names(0.22) == []  # 0.317 bits per byte
    assert names(0.8, spans=False, prefix_id=None) == ["too_good"]  # bytes unknown: a quarter of the bits per token


def test_a_few_tokens_are_not_judged():
    assert names(9.0, task=Text("too short")) == []


def test_mostly_unscored():
    text = Text("x" * 130)
    assert names(task=text, protocol="book:context=16") == []
    assert names(task=text, protocol="llama.cpp:context=32") == []  # leaves out half by design
    assert names(task=Text("x" * 95), protocol="llama.cpp:context=32") == ["mostly_unscored"]
    (verdict,) = verdicts(task=Text("x" * 600, "short", "brief", "terse", "small"), protocol="book:context=16")
    assert verdict.message == "8 of 10 texts were not scored; protocol exact scores them all"


def test_a_context_far_below_the_models():
    text = Text("x" * 500)
    assert names(task=text, protocol="exact:context=8") == ["short_context"]
    assert names(task=text, protocol="exact:context=9") == []
    assert names(task=Text("x" * 30), context_length=400) == []  # the text is that short


def test_a_tokenizer_of_another_size():
    for size, expected in ((300, ["vocabulary"]), (100, ["vocabulary"]), (250, []), (257, [])):
        model = BytesModel(constant(2.0))
        model.tokenizer = {"name": "other", "vocab_size": size}
        assert [verdict.name for verdict in evalgpt.evaluate(model, Text()).verdicts] == expected


def test_verdicts_are_in_the_report_the_table_and_the_comparison(tmp_path, capsys):
    good = evalgpt.evaluate(BytesModel(uniform_loss), Text())
    bad = evalgpt.evaluate(BytesModel(constant(UNIFORM + 1)), Text())
    write_report(evalgpt.make_report([bad]), str(tmp_path / "r.json"))
    (read,) = read_report(str(tmp_path / "r.json")).evaluations
    assert read.verdicts == bad.verdicts
    assert [line for line in sentences(bad) if line.startswith("! worse than guessing")]
    print_comparisons([compare(good, bad)])
    assert "! bytes: worse than guessing" in capsys.readouterr().out


@pytest.mark.parametrize(("spec", "trained"), [("scratch:emb_dim=8,n_heads=1,n_layers=1", False)])
def test_shipped_models_say_where_their_weights_come_from(spec, trained):
    assert evalgpt.load_plugins().model(spec).trained is trained
