"""Documents that an earlier evalgpt wrote (tests/data/schema-*): this one reads them, and makes the same of them."""

import json
import math
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from evalgpt import read_report
from evalgpt.cli import cli

FOLDERS = sorted((Path(__file__).parent.parent / "data").glob("schema-*"))
REPORTS = ("report", "pairs", "book", "strided")
DOCUMENTS = ("comparison", "difference", "check", "explanation", "generation", "training")

pytestmark = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)


def run(*arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments)], prog_name="evalgpt")
    assert result.exit_code == 0, result.stderr
    assert "warning" not in result.stderr  # as html's of a detail file that it cannot read
    return result.stdout


def numbers(document, path=()):
    """Every number of a document, by the keys and positions that lead to it."""
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        return {key: number for name, value in items for key, number in numbers(value, (*path, name)).items()}
    return {path: document} if isinstance(document, int | float) else {}


def same_numbers(made, stored, rel=1e-9, absolute=1e-12):
    """``made`` may say more than ``stored``, but nothing else."""
    expected = numbers(stored)
    found = numbers(made)
    assert expected.keys() <= found.keys()
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=rel, abs=absolute)


@pytest.mark.parametrize("name", [*REPORTS, *DOCUMENTS])
def test_the_published_schema_accepts_it(folder, name):
    schema = json.loads(run("schema", "report" if name in REPORTS else name))
    jsonschema.Draft202012Validator(schema).validate(json.loads((folder / f"{name}.json").read_bytes()))


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_shown(folder, name):
    evaluations = read_report(str(folder / f"{name}.json")).evaluations
    shown = run("show", folder / f"{name}.json")
    for evaluation in evaluations:
        assert f"{evaluation.metrics.loss:.4f}" in shown
        assert f"{evaluation.metrics.perplexity:.2f}" in shown


def test_its_numbers_fit_its_tokens(folder):
    for name in REPORTS:
        for evaluation in read_report(str(folder / f"{name}.json")).evaluations:
            losses = [loss for row in evaluation.rows for loss in row.tokenized.nll]
            assert len(losses) == evaluation.metrics.scores == evaluation.ledger.scores
            assert evaluation.metrics.loss == pytest.approx(math.fsum(losses) / len(losses), rel=1e-7)


def test_the_numbers_of_the_first_schema(folder):
    """Held here as well, so that no reading of the file can change them."""
    if folder.name != "schema-1":
        pytest.skip("another folder")
    first, second = read_report(str(folder / "report.json")).evaluations
    assert first.metrics.loss == pytest.approx(11.249894900755448)
    assert first.metrics.perplexity == pytest.approx(76871.8401677765)
    assert first.metrics.bits_per_byte == pytest.approx(4.435573749621395)
    assert (first.metrics.scores, first.metrics.bytes, first.metrics.words) == (44, 161, 30)
    assert second.metrics.loss == pytest.approx(10.963826829736883)
    (book,) = read_report(str(folder / "book.json")).evaluations
    assert book.peer.keys() == {"train_loss", "validation_loss"}
    (strided,) = read_report(str(folder / "strided.json")).evaluations
    assert strided.peer.keys() == {"perplexity_v1", "perplexity_v2", "perplexity_v3"}


def test_its_comparison_has_the_numbers_it_had(folder):
    made = json.loads(run("compare", folder / "report.json", "--json"))
    # The first schema's comparison took the decimals of a report for float64; losses are float32, to 1e-7 nats.
    same_numbers(made, json.loads((folder / "comparison.json").read_bytes()), rel=2e-8, absolute=2e-7)
    for side, evaluation in zip(
        ("baseline", "candidate"), read_report(str(folder / "report.json")).evaluations, strict=True
    ):
        assert made["comparisons"][0][side]["loss"] == pytest.approx(evaluation.metrics.loss, rel=1e-12)


def test_its_difference_has_the_numbers_it_had(folder):
    made = run("explain-difference", folder / "report.json", folder / "strided.json", "--json")
    same_numbers(json.loads(made), json.loads((folder / "difference.json").read_bytes()))


def test_a_report_does_not_differ_from_itself(folder):
    made = json.loads(run("compare", folder / "pairs.json", folder / "pairs.json", "--json"))
    (comparison,) = made["comparisons"]
    assert comparison["loss_difference"]["value"] == 0
    assert comparison["bits_per_byte_difference"]["value"] == 0


def test_a_page_is_made_of_all_of_them(folder):
    pytest.importorskip("jinja2")
    names = ("report", "book", "explanation", "training")
    page = run("html", *(folder / f"{name}.json" for name in names), "-o", "-")
    walk = json.loads((folder / "explanation.json").read_bytes())
    log = json.loads((folder / "training.json").read_bytes())
    assert f"{walk['loss']:.4f}" in page
    assert f"{log['evaluations'][-1]['validation_loss']:.4f}" in page
    for evaluation in read_report(str(folder / "report.json")).evaluations:
        assert f"{evaluation.metrics.loss:.4f}" in page


def test_a_report_is_exported(folder):
    (loss,) = (e.metrics.loss for e in read_report(str(folder / "strided.json")).evaluations)
    assert repr(loss) in run("export", folder / "strided.json", "--to", "csv")
    assert json.loads(run("export", folder / "strided.json", "--to", "lm-eval"))["results"]
