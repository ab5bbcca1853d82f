"""The page of explanations and of training runs: its numbers are the documents', and its text is text."""

import json
import re
from html import unescape

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from support.pages import HOSTILE, Every, explanation, report, training

from evalgpt import UsageError, write_report
from evalgpt.cli import cli
from evalgpt.report.document import to_json
from evalgpt.studies.explanation import Explanation
from evalgpt.studies.training.log import Training
from evalgpt.views.page.build import build_page
from evalgpt.views.page.documents import read_document
from evalgpt.views.page.explanation import walk_view
from evalgpt.views.page.training import smoothed, training_view
from evalgpt.views.terminal.explanation import print_explanation


def run(*arguments, **options):
    return CliRunner().invoke(cli, ["html", *map(str, arguments)], **options)


@pytest.fixture
def saved(tmp_path):
    paths = {}
    for name, made in (("walk", explanation()), ("log", training())):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_bytes(to_json(made))
    paths["report"] = tmp_path / "report.json"
    write_report(report(Every(3)), str(paths["report"]))
    return paths


def numbers_on(page):
    """The numbers of each strip, step by step."""
    strips = re.findall(r'<ol class="strip" .*?</ol>', page, re.DOTALL)
    return [re.findall(r'<span class="figure">([^<]*)</span>', strip) for strip in strips]


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("texts", [1, 2])
def test_the_steps_have_the_numbers_of_the_terminal(logits, texts, capsys):
    found = explanation(texts=texts, logits=logits)
    page = build_page([], explanations=[found]).decode()
    print_explanation(found)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    shown = numbers_on(page)
    assert len(shown) == texts * (4 if logits else 2)
    for numbers in shown:
        assert any(line.removeprefix("text 1: ").removeprefix("text 2: ") == " ".join(numbers) for line in lines)
    results = re.findall(r'<p class="result">.*?class="number">([^<]*)<', page)
    assert results == [f"{x:.4f}" for x in (-found.loss, found.loss, found.cross_entropy)] + [f"{found.perplexity:.2f}"]
    assert ("the walk begins at step 3" in page) is not logits


def test_an_average_written_out_adds_up():
    page = build_page([], explanations=[explanation()]).decode()
    ((terms, count),) = re.findall(r'class="sum">\(([-+ .0-9]*)\) / (\d+) =', page)
    numbers = [float(x) for x in terms.replace("- ", "-").replace("+ ", "+").split()]
    assert len(numbers) == int(count) == 5
    assert sum(numbers) / 5 == pytest.approx(-explanation().loss, abs=1e-4)
    assert "their sum / 69 =" in build_page([], explanations=[explanation(70)]).decode()


def test_a_long_text_is_drawn_in_part_and_tabled_whole():
    view = walk_view(explanation(70), "w1")
    assert [len(view.texts[0].tokens), view.texts[0].more, len(view.table)] == [32, 38, 69]
    assert max(len(each) for step in view.steps for each in step.numbers) == 32
    assert view.table[60][-2] == f"{explanation(70).texts[0].predictions[60].score:.4f}"


def test_bars_are_as_long_as_probabilities():
    page = build_page([], explanations=[explanation()]).decode()
    widths = {float(x) for x in re.findall(r'M0 0H([\d.]+)V3H0z" class="fill-a"', page)}
    assert widths == {50.0, 0.6}
    assert page.count(" ✓</th>") == 5


def test_smoothing_is_a_plain_mean():
    values = np.random.default_rng(1).normal(size=73)
    found, window = smoothed(values)
    half = window // 2
    assert window == 7
    assert found == pytest.approx([values[max(n - half, 0) : n + half + 1].mean() for n in range(73)])


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 1, 2, 40, 2500])
def test_a_training_run_of_any_length_has_its_numbers(done):
    log = training(done, max(done, 50))
    view = training_view(log, "t1")
    page = build_page([], trainings=[log]).decode()
    assert page.count('class="chart"') == len(view.charts) == (3 if done else 1)
    for e in log.evaluations:
        assert f"<td>{e.train_loss:.4f}</td><td>{e.validation_loss:.4f}</td>" in page
    assert ("not whole" in page) is (done < 50)
    if done:
        rows = view.charts[0].rows
        assert len(rows) == min(done, 40)
        first = np.mean(log.updates.loss[: round(done / len(rows))])
        assert float(rows[0][1]) == pytest.approx(first, abs=1e-4)
    assert len(page) < 250_000


def test_a_rising_validation_loss_is_named():
    log = training()
    log.best = msgspec.structs.replace(log.best, updates=20, validation_loss=2.0)
    (said,) = [s for s in training_view(log, "t1").sentences if "rose again" in s]
    assert "After update 20" in said
    assert "by 1.0000 nats" in said


@pytest.mark.slow
def test_nothing_of_their_texts_can_run_and_bytes_are_the_same():
    made = {"explanations": [explanation(), explanation(texts=2)], "trainings": [training()]}
    reports = [report(Every(3))]
    page = build_page(reports, **made).decode()
    assert page == build_page(reports, **made).decode()
    bare = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    assert "<script>" not in bare
    assert not re.search(r"<[^>]* (on\w+|style|src)\s*=", bare)
    assert not set("\0\u202e\u2028") & set(page)
    assert "<img" not in page
    assert "&lt;script&gt;window.harmed" in bare
    assert all(' href="#' in link for link in re.findall(r"<a [^>]*>", bare))
    ids = re.findall(r' id="([^"]+)"', bare)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in re.findall(r' href="([^"]+)"', bare)} <= set(ids)
    text = " ".join(unescape(re.sub(r"<[^>]*>", "", bare)).split())
    assert text.count("Step by step") == 1
    assert HOSTILE.split("\n")[0] in text


@pytest.mark.slow
def test_the_command_takes_all_kinds_in_any_order_and_the_folder_of_a_run(saved, tmp_path):
    assert isinstance(read_document(str(saved["walk"])), Explanation)
    log = read_document(str(saved["log"]))
    assert isinstance(log, Training)
    result = run(saved["log"], saved["walk"], saved["report"], "-o", "-")
    assert result.exit_code == 0, result.output
    assert all(f' id="{name}"' in result.stdout for name in ("e1", "w1", "t1"))
    folder = tmp_path / "run"
    folder.mkdir()
    saved["log"].rename(folder / "training.json")
    assert run(folder).exit_code == 0
    assert (folder / "training.html").read_bytes() == build_page(
        [], trainings=[log], sources=[str(folder / "training.json")]
    )
    piped = run("-", "-o", "-", input=saved["walk"].read_bytes())
    assert piped.stdout_bytes == build_page([], explanations=[explanation()], sources=["-"])


def changed(**fields):
    return lambda document: {**document, **fields}


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("walk", changed(schema="evalgpt.explanation/9"), "made of 'evalgpt.report/1', 'evalgpt.explanation/1', "),
        ("walk", changed(texts=[]), "text without a prediction"),
        ("walk", changed(loss="much"), "Expected `float`"),
        ("log", changed(evaluations=[{}]), "missing required field"),
        ("log", lambda d: {**d, "updates": {**d["updates"], "loss": [1.0]}}, "different lengths"),
        ("log", lambda d: {**d, "total_updates": None}, "Expected `int`"),
        ("log", lambda d: {"schema": 1}, "Expected `str`"),
        ("log", lambda d: {}, "schema"),
        ("log", lambda d: [], "Expected `object`"),
    ],
)  # fmt: skip
def test_another_document_gets_one_line(saved, name, change, says):
    saved[name].write_text(json.dumps(change(json.loads(saved[name].read_bytes()))))
    result = run(saved[name])
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert says in result.output


def test_logits_of_some_predictions_alone_are_refused(saved):
    document = json.loads(saved["walk"].read_bytes())
    document["texts"][0]["predictions"][2]["logit"] = None
    saved["walk"].write_text(json.dumps(document))
    with pytest.raises(UsageError, match="without a logit"):
        read_document(str(saved["walk"]))
