"""``evalgpt export --to inspect`` read by inspect_ai's own reader."""

import json

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from click.testing import CliRunner
from peers import parity

from evalgpt.cli import cli

parity.skip_without("inspect_ai")


@pytest.fixture(scope="module")
def logs(reports, tmp_path_factory):
    """Each log as inspect lists and reads it, by evaluation, with the evaluation."""
    folder = tmp_path_factory.mktemp("logs")
    names = ("mixed", "lm-eval", "part")
    result = CliRunner().invoke(
        cli, ["export", *(str(reports[n]) for n in names), "--to", "inspect", "-o", str(folder)]
    )
    assert result.exit_code == 0, result.output
    with parity.running():
        from inspect_ai.log import list_eval_logs, read_eval_log

        found = [read_eval_log(info) for info in list_eval_logs(str(folder))]
        headers = [read_eval_log(info, header_only=True) for info in list_eval_logs(str(folder))]
    assert [h.eval.task_id for h in headers] == [log.eval.task_id for log in found]
    evaluations = [(run, e) for n in names for run in [json.loads(reports[n].read_text())] for e in run["evaluations"]]
    assert len(found) == len(evaluations) == 5
    return [
        (log, e)
        for run, e in evaluations
        for log in found
        if (log.eval.run_id, log.eval.task) == (run["run"]["id"], e["task"]["spec"])
    ]


def test_every_log_is_found_and_whole(logs):
    assert len(logs) == 5
    for log, e in logs:
        assert (log.version, log.status, log.eval.model) == (2, "success", e["model"]["spec"])
        assert log.eval.metadata["sha256"] == e["task"]["sha256"]
        assert log.plan.steps[0].params == e["protocol"]["settings"]


def test_the_metrics_are_the_reports(logs):
    for log, e in logs:
        scores = {score.name: score.metrics for score in log.results.scores}
        for name, metrics in {"evalgpt": e["metrics"], **e["splits"]}.items():
            plain = {k: v for k, v in metrics.items() if k != "uncertainty" and v is not None}
            assert {k: m.value for k, m in scores[name].items()} == plain
            if metrics["uncertainty"] is not None:
                assert scores[name]["loss"].metadata["interval"] == metrics["uncertainty"]["loss"]
        if e["task_metrics"]:
            assert {k: m.value for k, m in scores["minimal-pairs"].items()} == e["task_metrics"]
        if e["peer"]:
            assert {k: m.value for k, m in scores[f"as {e['protocol']['source']} counts it"].items()} == e["peer"]


def test_the_samples_are_the_rows(logs):
    for log, e in logs:
        assert len(log.samples) == log.results.total_samples == len(e["rows"])
        for sample, row in zip(log.samples, e["rows"], strict=True):
            assert sample.input == row["tokenized"]["text"]
            assert sample.scores["evalgpt"].value == row["loss"]
            assert sample.metadata["sha256"] == row["sha256"]
