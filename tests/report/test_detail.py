"""--detail: values against a plain softmax, both files alike, readable by others, and one line for what cannot be."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.detailed import TEXT, Bytes, Texts, collected
from support.models import BytesModel

from evalgpt import EvaluationError, UsageError, evaluate
from evalgpt.cli import cli
from evalgpt.report import read_report
from evalgpt.report.detail import Collected, read_detail

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("options", [{}, {"precision": 0.05, "seed": 3}])
def test_every_score_is_that_of_a_plain_softmax_even_where_batches_do_not_fit(options):
    model = Bytes()
    model.room = 1
    evaluation, found = collected(model, **options)
    columns = found.columns()
    assert len(columns["nll"]) == evaluation.metrics.scores > 20
    assert np.array_equal(columns["nll"], [x for row in evaluation.rows for x in np.float32(row.tokenized.nll)])
    for n in range(len(columns["nll"])):
        ids = evaluation.rows[columns["row"][n]].tokenized.ids
        at, fed = int(columns["token"][n]), int(columns["context"][n])
        context = ids[at - fed : at] if fed <= at else [256, *ids[:at]]
        logits = Bytes().logits(context)
        probability = np.exp(logits) / np.exp(logits).sum()
        assert columns["nll"][n] == pytest.approx(-np.log(probability[ids[at]]), abs=1e-5)
        assert columns["rank"][n] == sorted(-probability).index(-probability[ids[at]])
        assert columns["entropy"][n] == pytest.approx(-(probability * np.log(probability)).sum(), abs=1e-5)
        assert columns["top_ids"][n].tolist() == sorted(range(257), key=lambda i: -probability[i])[:3]
        assert columns["top_logprobs"][n] == pytest.approx(np.log(np.sort(probability)[:-4:-1]), abs=1e-5)


def test_the_real_engine_ranks_as_full_logits_do():
    torch = pytest.importorskip("torch")
    from evalgpt.core.plugins import default_plugins

    model = default_plugins().model("scratch:emb_dim=16,n_heads=2,n_layers=1,context_length=32,device=cpu")
    evaluation = evaluate(model, Texts(), "exact", detail=(found := Collected(4)))
    kept, columns = evaluation.rows[0].tokenized, found.columns()
    n = len(kept.nll)
    with torch.no_grad():
        ids = [model.prefix_id, *kept.ids] if kept.first[0] == 0 else kept.ids
        logits = model.logits(torch.tensor([ids[:-1]]))[0][-n:].double()
    probability = logits.softmax(1)
    targets = torch.tensor(kept.ids[-n:])
    own = probability.gather(1, targets[:, None])
    assert len(kept.first) == 1
    assert columns["rank"][:n].tolist() == (probability > own).sum(1).tolist()
    assert columns["entropy"][:n] == pytest.approx(-(probability * probability.log()).sum(1).numpy(), abs=1e-4)
    assert columns["top_ids"][:n].tolist() == probability.topk(4).indices.tolist()


def run(tmp_path, *options, name="report.json"):
    text = tmp_path / "a.txt"
    text.write_bytes(TEXT.encode())
    model = "scratch:emb_dim=16,n_heads=2,n_layers=1,context_length=32,device=cpu"
    report = tmp_path / name
    command = ["run", "-m", model, "-t", f"text:{text}", "-p", "book:context=8,stride=4", "-q", "-o", str(report)]
    return report, CliRunner().invoke(cli, [*command, *options])


def test_npz_and_parquet_hold_the_same_and_others_read_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs the extra parquet")
    found = []
    for kind in ("npz", "parquet"):
        report, result = run(tmp_path, "--detail", kind, "--top", "3", name=f"{kind}.json")
        assert result.exit_code == 0, result.output
        found.append(read_detail(read_report(str(report)), str(report)))
    assert found[0].keys() == found[1].keys()
    assert found[0]
    for key, one in found[0].items():
        other = found[1][key]
        for name in ("token", "rank", "entropy", "top_logprobs"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert one.top_text == other.top_text
        assert len(one.top_text[0]) == 3
    path = tmp_path / "parquet.detail.parquet"
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_parquet(path)
    twice = frame[frame.duplicated(["evaluation", "row", "token"], keep=False)]
    assert len(twice)
    assert not frame.duplicated(["evaluation", "row", "window", "token"]).any()
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    total, rows = duckdb.sql(f"SELECT sum(nll), count(*) FROM '{path}'").fetchall()[0]
    metrics = json.loads((tmp_path / "parquet.json").read_text())["evaluations"][0]["metrics"]
    assert total == pytest.approx(metrics["nll"], rel=1e-6)
    assert rows == metrics["scores"]


def test_the_texts_of_the_tokens_make_the_text():
    _, found = collected(protocol="exact")
    columns = found.columns()
    first = columns["row"] == 0
    ends = columns["text_ends"][first]
    assert columns["text_utf8"][: ends[-1]].tobytes().decode() == TEXT
    _, found = collected(Bytes(spans=False), "exact")
    assert (found.columns()["start"] == -1).all()


def test_more_likeliest_tokens_than_there_are():
    _, found = collected(top=300)
    assert (found.columns()["top_ids"][:, 257:] == -1).all()
    assert (found.columns()["top_ids"][:, :257] >= 0).all()


def test_a_model_that_answers_no_detail_is_told():
    with pytest.raises(EvaluationError, match="losses alone"):
        collected(BytesModel())


def test_what_cannot_be_is_told_before_anything_is_computed(tmp_path):
    (tmp_path / "report.detail.npz").write_text("a diary")
    assert "something else" in run(tmp_path, "--detail", "npz")[1].output
    assert not (tmp_path / "report.json").exists()
    result = CliRunner().invoke(cli, ["run", "-m", "scratch", "-t", "story", "--detail", "npz", "-o", "-"])
    assert result.exit_code == 2
    assert "-o FILE" in result.output


def test_a_missing_or_changed_file_is_told(tmp_path):
    report, result = run(tmp_path, "--detail", "npz")
    assert result.exit_code == 0, result.output
    path = tmp_path / "report.detail.npz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UsageError, match="SHA-256"):
        read_detail(read_report(str(report)), str(report))
    path.unlink()
    with pytest.raises(UsageError, match="cannot read"):
        read_detail(read_report(str(report)), str(report))
    report, _ = run(tmp_path, name="plain.json")
    assert read_detail(read_report(str(report)), str(report)) == {}
