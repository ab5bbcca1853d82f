"""Exports read back: every number is the report's own, and text is text in every format."""

import csv
import io
import json
import math
import os
import re
import subprocess
import sys

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from support.reports import SMALL

from evalgpt.cli import cli
from evalgpt.core.text import visible
from evalgpt.report import read_report
from evalgpt.views.export.base import Source
from evalgpt.views.export.csv import FORMULA, to_csv
from evalgpt.views.export.lm_eval import to_lm_eval
from evalgpt.views.export.markdown import escape, to_markdown

ODD = '=1+1|a`b`\n<script>*x*_y_ \u202e\x1b[31m 👩‍🚀 &amp; $z$ "q" \''


def invoke(*args, input=None):
    return CliRunner().invoke(cli, ["export", *map(str, args)], input=input)


def changed(path, folder, change):
    """A copy of a report with one evaluation's data changed by ``change``."""
    data = json.loads(path.read_text())
    change(data)
    copy = folder / "changed.json"
    copy.write_text(json.dumps(data))
    return copy


def source(path):
    return Source(str(path), read_report(str(path)))


def at(data, path):
    top, _, rest = path.partition(".")
    for name in (top, rest) if top == "task_metrics" else path.split("."):
        data = data[name]
    return data


def lines(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("name", ["mixed", "lm-eval", "part", "two"])
def test_csv_reads_back_as_the_report(reports, name):
    result = invoke(reports[name], "--to", "csv")
    assert result.exit_code == 0, result.output
    found = lines(result.stdout)
    data = json.loads(reports[name].read_text())
    expected = [
        (e, split, metrics)
        for e in data["evaluations"]
        for split, metrics in [("", e["metrics"]), *e["splits"].items()]
    ]
    assert len(found) == len(expected) > 0
    compared = 0
    for line, (e, split, metrics) in zip(found, expected, strict=True):
        assert line["split"] == split
        for column, cell in line.items():
            top, _, rest = column.partition(".")
            if top in ("report", "split", "verdicts", "notes", "run") or (split and top in e and not cell):
                continue
            place, where = (metrics, rest) if top == "metrics" else (e, column)
            end = {"low": 0, "high": 1}.get(where.rpartition(".")[2]) if top != "task_metrics" else None
            try:
                value = at(place, where if end is None else where.rpartition(".")[0])
                value = value if end is None or value is None else value[end]
            except (KeyError, TypeError):  # another evaluation's column, or a field of what is null
                assert cell == "", column
                continue
            compared += 1
            if value is None:
                assert cell == "", column
            elif isinstance(value, bool):
                assert cell == str(value).lower(), column
            elif isinstance(value, int | float):
                assert float(cell) == value, column
            elif isinstance(value, dict | list):
                assert json.loads(cell) == value, column
            else:
                assert cell == value, column
    assert compared > 40 * len(found)


def test_csv_has_every_field_of_the_metrics_and_the_same_columns_where_nothing_is_known(reports):
    known, short = (lines(invoke(reports[name], "--to", "csv").stdout)[0] for name in ("lm-eval", "two"))
    assert {c for c in known if c.startswith(("metrics", "ledger"))} == {
        c for c in short if c.startswith(("metrics", "ledger"))
    }
    whole = json.loads(reports["lm-eval"].read_text())["evaluations"][0]["metrics"]
    columns = {c.split(".")[1] for c in known if c.startswith("metrics.")}
    assert columns == set(whole)


def test_a_text_that_a_spreadsheet_would_run_is_defused_and_numbers_stay_numbers(reports, tmp_path):
    for begin in FORMULA:

        def change(data, begin=begin):
            e = data["evaluations"][0]
            e["task"]["spec"] = f"{begin}cmd|' /C calc'!A0"
            e["peer"] = {"minus": -0.5}

        (line,) = lines(to_csv([source(changed(reports["lm-eval"], tmp_path, change))])[0].data.decode())
        assert line["task.spec"].startswith("'")
        assert line["task.spec"].endswith("cmd|' /C calc'!A0")
        assert line["peer.minus"] == "-0.5"


def test_csv_stays_one_line_for_each_evaluation_whatever_the_text(reports, tmp_path):
    def change(data):
        data["evaluations"][0]["model"]["spec"] = "a\r\nb\0c\x1b[2J"
        data["evaluations"][0]["notes"] = [ODD]
        data["evaluations"][0]["peer"] = {"=a\nb": 1.0}

    text = to_csv([source(changed(reports["lm-eval"], tmp_path, change))])[0].data.decode()
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()
    assert lines(text)[0]["model.spec"] == r"a\r\nb\x00c\x1b[2J"


def front_matter(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_model_index_has_the_numbers_in_full(reports):
    data = json.loads(reports["mixed"].read_text())
    index, _ = front_matter(invoke(reports["mixed"], "--to", "markdown").stdout)
    ((entry),) = index["model-index"]
    assert entry["name"] == SMALL
    expected = [
        (e, split, metrics)
        for e in data["evaluations"]
        for split, metrics in [("", e["metrics"]), *e["splits"].items()]
    ]
    for result, (e, split, metrics) in zip(entry["results"], expected, strict=True):
        assert result["task"]["type"] == "text-generation"
        assert (result["dataset"]["name"], result["dataset"]["type"]) == (e["task"]["spec"], e["task"]["name"])
        assert result["dataset"].get("split", "") == split
        assert result["dataset"]["revision"] == f"sha256:{e['task']['sha256']}"
        values = {m["type"]: m["value"] for m in reversed(result["metrics"])}  # the first of equal ones stays
        assert {k: values[k] for k in ("loss", "perplexity", "bits_per_byte")} == {
            k: metrics[k] for k in ("loss", "perplexity", "bits_per_byte")
        }
        assert values.get("accuracy") == e["task_metrics"].get("accuracy")


def test_hugging_face_reads_the_model_index(reports):
    card = pytest.importorskip("huggingface_hub", reason="needs the extra hf").ModelCard
    result = invoke(reports["mixed"], "--to", "markdown")
    read = card(result.stdout, ignore_metadata_errors=False).data
    evaluations = json.loads(reports["mixed"].read_text())["evaluations"]
    losses = [m["loss"] for e in evaluations for m in (e["metrics"], *e["splits"].values())]
    assert read.model_name == SMALL
    assert [r.metric_value for r in read.eval_results if r.metric_type == "loss"] == losses


@pytest.mark.parametrize("value", [1e-05, 1e22, 1.5e300, 5e-324, 0.1, 123456789.0, -2.0])
def test_yaml_reads_every_float_as_a_float(reports, tmp_path, value):
    def change(data):
        data["evaluations"][0]["metrics"]["loss"] = value

    index, _ = front_matter(to_markdown([source(changed(reports["lm-eval"], tmp_path, change))])[0].data.decode())
    (loss,) = (m["value"] for m in index["model-index"][0]["results"][0]["metrics"] if m["type"] == "loss")
    assert type(loss) is float
    assert loss == value


@pytest.mark.parametrize(
    "name", ["1e5", "0o17", "no", "2026-11-28", "a: b # c", "~", "é" * 200, "👩 x", "\x85", "'", "&a *b"]
)
def test_yaml_reads_every_name_as_the_text_it_is(reports, tmp_path, name):
    def change(data):
        data["evaluations"][0]["model"]["spec"] = name

    text = to_markdown([source(changed(reports["lm-eval"], tmp_path, change))])[0].data.decode()
    (entry,) = front_matter(text)[0]["model-index"]
    assert entry["name"] == visible(name)
    (line,) = [line for line in text.splitlines() if line.startswith("- name: ")]
    assert line[8] == line[-1] == '"'  # also a text by YAML 1.2


def test_without_pyyaml_the_extra_is_named(reports, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    result = invoke(reports["lm-eval"], "--to", "markdown")
    assert result.exit_code == 2
    assert "evalgpt[markdown]" in result.stderr
    assert invoke(reports["lm-eval"], "--to", "csv").exit_code == 0


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_tables_are_of_one_shape_and_say_what_the_report_says(reports):
    _, body = front_matter(invoke(reports["mixed"], reports["part"], "--to", "markdown").stdout)
    tables = [block.splitlines() for block in body.split("\n\n") if block.startswith("|")]
    assert [len({len(cells(line)) for line in table}) for table in tables] == [1, 1]
    evaluations = [e for name in ("mixed", "part") for e in json.loads(reports[name].read_text())["evaluations"]]
    metrics = [m for e in evaluations for m in (e["metrics"], *e["splits"].values())]
    for line, m in zip(tables[0][2:], metrics, strict=True):
        row = cells(line)
        assert row[3:5] == [str(m["scores"]), f"{m['loss']:.4f}"]
        if m["uncertainty"] is not None:
            assert row[6] == " to ".join(f"{x:.2f}" for x in m["uncertainty"]["perplexity"])
    assert [cells(line)[2] for line in tables[1][2:]] == ["6", "3", "3"]
    assert "windows" in body
    assert "unscored at the tail" in body


def test_markup_in_names_is_shown_as_it_is(reports, tmp_path):
    markdown_it = pytest.importorskip("markdown_it")

    def change(data):
        e = data["evaluations"][0]
        e["model"]["spec"] = e["task"]["spec"] = e["notes"] = ODD
        e["notes"], e["task"]["sha256"] = [ODD, "# no heading"], "<b>"

    text = to_markdown([source(changed(reports["lm-eval"], tmp_path, change))])[0].data.decode()
    index, body = front_matter(text)
    html = markdown_it.MarkdownIt("commonmark").enable("table").render(body)
    assert "<script" not in html
    assert "<em>" not in html
    assert "<code>" not in html
    assert html.count("<h") == 1 + html.count("<hr")
    row = html[html.index("<tbody>") :]
    assert row.count("<td") == 9
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert index["model-index"][0]["name"].startswith("=1+1|a`b`\\n<script>")


def test_an_underscore_within_a_word_is_left_alone():
    assert escape("n_layers=1 _x_ a_") == r"n_layers=1 \_x\_ a\_"


def test_null_is_absent_or_said_in_words_in_each_format(reports, tmp_path):
    def change(data):
        m = data["evaluations"][0]["metrics"]
        m["perplexity"] = m["word_perplexity"] = None
        m["uncertainty"]["perplexity"] = [1.0, None]

    path = changed(reports["mixed"], tmp_path, lambda d: (d["evaluations"].pop(0), change(d)))
    line = lines(invoke(path, "--to", "csv").stdout)[0]
    assert (line["metrics.perplexity"], line["metrics.uncertainty.perplexity.high"]) == ("", "")
    index, body = front_matter(invoke(path, "--to", "markdown").stdout)
    assert [m["type"] for m in index["model-index"][0]["results"][0]["metrics"]] == ["loss", "bits_per_byte"]
    assert "| beyond a float | 1.00 to beyond a float |" in body
    results = json.loads(invoke(path, "--to", "lm-eval").stdout)["results"]["story"]
    assert "word_perplexity,none" not in results
    assert "byte_perplexity,none" in results
    assert invoke(path, "--to", "inspect", "-o", f"{tmp_path / 'logs'}{os.sep}").exit_code == 0
    log = json.loads(next((tmp_path / "logs").glob("*story*")).read_text())
    assert "perplexity" not in log["results"]["scores"][0]["metrics"]


def test_lm_eval_has_its_own_counts_under_its_protocol_and_says_so_under_others(reports):
    own = json.loads(reports["lm-eval"].read_text())["evaluations"][0]
    found = json.loads(invoke(reports["lm-eval"], "--to", "lm-eval").stdout)
    assert found["results"]["story"]["alias"] == "story"
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert found["results"]["story"][f"{name},none"] == own["peer"][name]
        assert found["results"]["story"][f"{name}_stderr,none"] == "N/A"
    assert own["peer"]["word_perplexity"] != own["metrics"]["word_perplexity"]
    part = json.loads(invoke(reports["part"], "--to", "lm-eval").stdout)
    assert "windows" in part["results"]["story"]["alias"]
    mixed = json.loads(invoke(reports["mixed"], "--to", "lm-eval").stdout)
    assert "protocol book" in mixed["results"]["story"]["alias"]
    assert mixed["group_subtasks"]["story"] == ["story_train", "story_validation"]
    evaluations = json.loads(reports["mixed"].read_text())["evaluations"]
    rows = {k: v for k, v in evaluations[1].items() if k != "rows"}
    assert mixed["evalgpt"]["story"] == rows


def test_lm_eval_has_the_accuracies_of_pairs(reports):
    (pairs,) = [e for e in json.loads(reports["mixed"].read_text())["evaluations"] if "accuracy" in e["task_metrics"]]
    found, key = json.loads(invoke(reports["mixed"], "--to", "lm-eval").stdout), pairs["task"]["spec"]
    for name, prefix in ((key, ""), (f"{key}_one", "one."), (f"{key}_two", "two.")):
        assert found["results"][name]["acc,none"] == pairs["task_metrics"][f"{prefix}accuracy"]
        assert found["results"][name]["acc_bytes,none"] == pairs["task_metrics"][f"{prefix}accuracy_per_byte"]
        assert found["n-samples"][name]["effective"] == pairs["task_metrics"][f"{prefix}pairs"]
    assert found["higher_is_better"][key] == {"acc": True, "acc_bytes": True}


def test_accuracies_of_parts_alone_are_not_those_of_a_whole(reports, tmp_path):
    def change(data):
        data["evaluations"][0]["task_metrics"] = {"one.pairs": 2.0, "one.accuracy": 0.5}

    for form in ("lm-eval", "csv", "markdown", "inspect"):
        result = invoke(changed(reports["lm-eval"], tmp_path, change), "--to", form)
        assert result.exit_code == 0, result.output
        assert "acc,none" not in result.stdout


def test_the_same_task_twice_keeps_both(reports, tmp_path):
    path = changed(reports["mixed"], tmp_path, lambda d: d["evaluations"].append(d["evaluations"][1]))
    (file,) = to_lm_eval([source(path)])
    assert {"story", "story #2", "story #2_train"} <= json.loads(file.data)["results"].keys()


@pytest.mark.parametrize(("form", "files"), [("lm-eval", 3), ("inspect", 5), ("csv", 1), ("markdown", 1)])
def test_a_folder_takes_all_files_and_again(reports, tmp_path, form, files):
    for _ in range(2):
        result = invoke(reports["mixed"], reports["two"], "--to", form, "-o", f"{tmp_path / 'new'}{os.sep}")
        assert result.exit_code == 0, result.output
    assert len([p for p in (tmp_path / "new").rglob("*") if p.is_file()]) == files


def test_two_runs_of_one_model_in_one_second_have_files_of_their_own(reports, tmp_path):
    dates = [json.loads(reports[name].read_text())["run"]["created"] for name in ("mixed", "two")]
    assert all("." in date for date in dates)
    assert dates[0] != dates[1]
    second = dates[0].split(".")[0]

    def export(first, other):
        paths = []
        for name, created in (("mixed", first), ("two", other)):
            data = json.loads(reports[name].read_text())
            data["run"]["created"] = created
            paths.append(tmp_path / f"{name}.json")
            paths[-1].write_text(json.dumps(data))
        return invoke(*paths, "--to", "lm-eval", "-o", f"{tmp_path / 'new'}{os.sep}")

    assert export(f"{second}.000001+00:00", f"{second}.000002+00:00").exit_code == 0
    result = export(f"{second}+00:00", f"{second}+00:00")  # as versions up to 0.1 wrote them
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "of one model and second; export each to its own folder" in result.stderr


def test_standard_input_is_read(reports):
    result = invoke("-", "--to", "csv", input=reports["two"].read_bytes())
    assert result.exit_code == 0, result.output
    assert [line["report"] for line in lines(result.stdout)] == ["standard input", "standard input"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["{two}", "--to", "lm-eval"], "a file of lm-eval holds one run of one model, and there are 2 of these"),
        (["{mixed}", "--to", "inspect", "-o", "{tmp}/x.json"], "holds one evaluation, and there are 3"),
        (["{two}", "{two}", "--to", "inspect", "-o", "{tmp}"], "of one run, or of one model and second"),
        (["{two}", "--to", "csv", "-o", "{tmp}/none/x.csv"], "there is no folder"),
        (["{two}", "--to", "csv", "-o", "{tmp}/card.md"], "holds something else"),
        (["{two}", "--to", "csv", "-o", ""], "is empty"),
        (["{lm-eval}", "--to", "inspect", "-o", "{lm-eval}"], "would be written over"),
        (["{two}", "--to", "csv", "-o", "{tmp}/card.md/x/"], "cannot write"),
        (["{tmp}/card.md", "--to", "csv"], "is not an evalgpt report"),
        (["{tmp}/none.json", "--to", "csv"], "none.json"),
        (["{tmp}/empty.json", "--to", "csv"], "nothing to export"),
        (["{tmp}/nulls.json", "--to", "lm-eval"], "nothing to export to lm-eval"),
        (["{tmp}/date.json", "--to", "inspect"], "no date in run.created"),
        (["{two}", "--to", "xlsx"], "xlsx"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(reports, tmp_path, args, says):
    def nulls(data):
        metrics = data["evaluations"][0]["metrics"]
        metrics |= dict.fromkeys(("word_perplexity", "byte_perplexity", "bits_per_byte"))
        data["evaluations"][0] |= {"peer": {}}

    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\nMine.\n")
    for name, change in (
        ("empty", lambda d: d.update(evaluations=[])),
        ("nulls", nulls),
        ("date", lambda d: d["run"].update(created="yesterday")),
    ):
        changed(reports["lm-eval"], tmp_path, change).rename(tmp_path / f"{name}.json")
    names = {**reports, "tmp": tmp_path}
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    result = invoke(*(arg.format(**names) for arg in args))
    assert result.exit_code == 2
    assert result.stderr.startswith("evalgpt: error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_command_loads_no_torch(reports):
    code = (
        "import sys; from evalgpt.cli import cli; cli(sys.argv[1:], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(reports["two"]), "--to", "csv"], capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(reports):
    code = "from evalgpt.cli import main; main()"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "export", str(reports["two"]), "--to", "csv"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "cannot write standard output: No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_of_files_are_safe_whatever_the_spec(reports, tmp_path):
    def change(data):
        data["evaluations"][0]["task"]["spec"] = "../../" + ODD * 20
        data["evaluations"][0]["model"]["spec"] = ".."

    path = changed(reports["lm-eval"], tmp_path, change)
    for form in ("lm-eval", "inspect"):
        result = invoke(path, "--to", form, "-o", f"{tmp_path / 'deep' / form}{os.sep}")
        assert result.exit_code == 0, result.output
    outside = [p for p in tmp_path.rglob("*.json") if tmp_path / "deep" not in p.parents]
    assert outside == [path]


def test_floats_of_reports_are_finite():
    """Why no export needs a word for NaN and infinity: a report cannot hold them."""
    for text in (b"NaN", b"Infinity", b"1e999"):
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(text)
    assert msgspec.json.encode(math.inf) == b"null"
