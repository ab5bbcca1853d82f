"""evalgpt.compare: two models or two evaluations give the numbers of evaluate and of the command line."""

import json

import pytest
from click.testing import CliRunner
from support.models import BytesModel, hashed_loss
from support.pages import Texts

import evalgpt
from evalgpt import ComparisonOptions, EvaluationError, Options, UsageError
from evalgpt.cli import cli
from evalgpt.studies.compare.comparison import compare as compare_evaluations

pytestmark = pytest.mark.numeric

TEXT = Texts("Every effort moves you. I really like chocolate. " * 6, "And so does the rest of the house.")
SMALL = "scratch:emb_dim=16,n_heads=2,n_layers=1,context_length=32"
PROTOCOL = "exact:context=16,stride=8"


def other(context_length=32, salt=1):
    return BytesModel(lambda context, target: hashed_loss((salt, *context), target), context_length=context_length)


def test_models_give_the_comparison_of_their_evaluations():
    found = evalgpt.compare(BytesModel(), other(), TEXT, PROTOCOL, Options(batch_tokens=64), seed=3)
    one, two = (evalgpt.evaluate(model, TEXT, PROTOCOL) for model in (BytesModel(), other()))
    assert found == compare_evaluations(one, two) == evalgpt.compare(one, evalgpt.make_report([two]))
    assert found.loss_difference.value == pytest.approx(two.metrics.loss - one.metrics.loss)


def test_models_with_other_limits_get_the_context_that_both_take():
    found = evalgpt.compare(BytesModel(context_length=24), other(64), TEXT)
    assert "context 24" in found.protocol


def test_the_command_line_gives_the_same(tmp_path):
    (tmp_path / "text.txt").write_text("Every effort moves you. " * 20)
    specs, task = (SMALL, f"{SMALL},seed=7"), f"text:{tmp_path / 'text.txt'}"
    options = ["-m", specs[0], "-m", specs[1], "-t", task, "--kl", "-q", "-o", str(tmp_path / "c.json")]
    assert CliRunner().invoke(cli, ["compare", *options]).exit_code == 0
    (written,) = json.loads((tmp_path / "c.json").read_text())["comparisons"]
    found = evalgpt.compare(*specs, task, device="cpu", kl=True)
    assert found.divergence.mean.value == pytest.approx(written["divergence"]["mean"]["value"], rel=1e-6)
    assert found.divergence.mean.value > 0
    assert found.loss_difference.value == pytest.approx(written["loss_difference"]["value"], abs=1e-6)


def test_until_decided_says_which_is_better():
    worse = BytesModel(lambda context, target: hashed_loss(context, target) + 1)
    found = evalgpt.compare(BytesModel(), worse, Texts("Every effort moves you. " * 400), until_decided=True, seed=1)
    assert found.decision.sign == 1
    assert found.decision.windows < found.decision.of


EVALUATION = evalgpt.evaluate(BytesModel(), TEXT, PROTOCOL)


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        ((BytesModel(), other()), {}, "task"),
        ((BytesModel(), 7, TEXT), {}, "int 7"),
        ((EVALUATION, other(), TEXT), {}, "two evaluations"),
        ((EVALUATION, EVALUATION, TEXT), {}, "task"),
        ((EVALUATION, EVALUATION), {"options": Options()}, "options"),
        ((EVALUATION, EVALUATION), {"kl": True}, "options"),
        ((EVALUATION, evalgpt.make_report([EVALUATION] * 2)), {}, "2 evaluations"),
        ((EVALUATION, evalgpt.evaluate(BytesModel(), TEXT, "exact:context=16,stride=4")), {}, "settings.stride"),
        ((BytesModel(), other(), TEXT), {"options": ComparisonOptions(kl=True), "until_decided": True}, "kl"),
        ((BytesModel(), other(), TEXT), {"kl": True}, "no distributions"),
        ((BytesModel(), other(), TEXT), {"precision": 0.1}, "precision"),
        ((BytesModel(), other(), TEXT), {"tokens": False}, "tokens"),
        ((BytesModel(), other(), TEXT), {"device": "cpu"}, "already built"),
        ((BytesModel(), BytesModel(prefix_id=None), TEXT), {"until_decided": True}, "one prefix"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, options, named):
    with pytest.raises(UsageError, match=named):
        evalgpt.compare(*arguments, **options)


def test_nothing_is_scored_where_the_text_cannot_be():
    model = BytesModel()
    with pytest.raises(EvaluationError, match="token"):
        evalgpt.compare(model, other(), Texts(""))
    assert not model.batches
