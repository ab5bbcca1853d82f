"""Files that were damaged or forged: reports nested without end, detail files of another kind. One line each."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from support.detailed import collected

from evalgpt import UsageError
from evalgpt.cli import cli
from evalgpt.report import read_report
from evalgpt.report.describe import make_report
from evalgpt.report.detail import read_detail
from evalgpt.report.document import DetailFile, to_json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a report and its detail file."""
    folder = tmp_path_factory.mktemp("made")
    evaluation, found = collected()
    detail = found.write(str(folder / "report.detail.npz"))
    report = make_report([evaluation])
    (folder / "report.json").write_bytes(to_json(type(report)(run=report.run, evaluations=[evaluation], detail=detail)))
    return folder


def deep(levels):
    return b'{"deeper":' * levels + b"1" + b"}" * levels


COMMANDS = {
    "show": ["show", "FILE"],
    "compare": ["compare", "FILE", "FILE"],
    "html": ["html", "FILE", "-o", "page.html"],
    "export": ["export", "FILE", "--to", "csv"],
    "explain-difference": ["explain-difference", "FILE", "FILE"],
}


@pytest.mark.parametrize("levels", [150, 100_000])
@pytest.mark.parametrize("field", [b'"tokenizer": {', b'"settings": {'])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_report_nested_without_end_is_one_line(command, field, levels, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = (made / "report.json").read_bytes()
    assert field in data
    (tmp_path / "deep.json").write_bytes(data.replace(field, field + b'"deep":' + deep(levels) + b","))
    args = ["deep.json" if arg == "FILE" else arg for arg in COMMANDS[command]]
    result = CliRunner().invoke(cli, args, prog_name="evalgpt")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("evalgpt: error: deep.json")
    assert "too deep" in line


def test_verify_says_so_too(made, tmp_path):
    data = (made / "report.json").read_bytes()
    (tmp_path / "deep.json").write_bytes(data.replace(b'"tokenizer": {', b'"config": {"deep":' + deep(100_000) + b","))
    result = CliRunner().invoke(cli, ["verify", str(tmp_path / "deep.json")])
    assert result.exit_code == 2
    assert "too deep" in result.output
    assert "Traceback" not in result.output


def test_a_byte_order_mark_before_a_report_is_no_part_of_it(made, tmp_path):
    (tmp_path / "mark.json").write_bytes(b"\xef\xbb\xbf" + (made / "report.json").read_bytes())
    assert read_report(str(tmp_path / "mark.json")) == read_report(str(made / "report.json"))


def stored(**columns):
    file = io.BytesIO()
    np.savez(file, **columns)
    return file.getvalue()


def changed(columns, **others):
    kept = {name: column for name, column in {**columns, **others}.items() if column is not None}
    return stored(**kept)


def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("nll.npy", b"\0" * (8 << 20))
    return file.getvalue()


FORGED = {
    "empty": lambda data, columns: b"",
    "no archive": lambda data, columns: b"PK\3\4 and no more",
    "cut off": lambda data, columns: data[: len(data) // 2],
    "a byte changed": lambda data, columns: data[:200] + bytes([data[200] ^ 255]) + data[201:],
    "a bomb": lambda data, columns: bomb(),
    "pickled": lambda data, columns: changed(columns, rank=np.array([object()] * len(columns["rank"]), dtype=object)),
    "a column missing": lambda data, columns: changed(columns, rank=None),
    "texts missing": lambda data, columns: changed(columns, top_text_utf8=None),
    "ranks are floats": lambda data, columns: changed(columns, rank=columns["rank"].astype(float)),
    "rows are texts": lambda data, columns: changed(columns, row=columns["row"].astype(str)),
    "entropy too short": lambda data, columns: changed(columns, entropy=columns["entropy"][1:]),
    "entropy a matrix": lambda data, columns: changed(columns, entropy=columns["entropy"][:, None]),
    "a scalar": lambda data, columns: changed(columns, evaluation=np.int32(0)),
    "likeliest flat": lambda data, columns: changed(columns, top_logprobs=columns["top_logprobs"].reshape(-1)),
    "ends go back": lambda data, columns: changed(columns, top_text_ends=columns["top_text_ends"][::-1]),
    "ends too far": lambda data, columns: changed(columns, top_text_ends=columns["top_text_ends"] + 5),
    "texts are no UTF-8": lambda data, columns: changed(columns, top_text_utf8=columns["top_text_utf8"] | 0x80),
    "another report's": lambda data, columns: changed(columns, row=columns["row"] + 7),
    "no rows": lambda data, columns: stored(**{name: column[:0] for name, column in columns.items()}),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_detail_file_is_one_line(kind, made, tmp_path):
    data = (made / "report.detail.npz").read_bytes()
    with np.load(io.BytesIO(data)) as file:
        forged = FORGED[kind](data, {name: file[name] for name in file.files})
    refused(forged, "report.detail.npz", made, tmp_path)


def refused(data, name, made, folder):
    report = read_report(str(made / "report.json"))
    (folder / name).write_bytes(data)
    detail = DetailFile(file=name, sha256=hashlib.sha256(data).hexdigest(), top=report.detail.top)
    forged = type(report)(run=report.run, evaluations=report.evaluations, detail=detail)
    with pytest.raises(UsageError, match="is no detail file of this report: "):
        read_detail(forged, str(folder / "report.json"))


@pytest.mark.parametrize("cut", [0, 20, -20])
def test_a_forged_parquet_file_is_one_line(cut, made, tmp_path):
    pytest.importorskip("pyarrow")
    _, found = collected()
    found.write(str(tmp_path / "whole.parquet"))
    refused((tmp_path / "whole.parquet").read_bytes()[:cut], "report.detail.parquet", made, tmp_path)


def test_a_parquet_file_with_other_columns_is_one_line(made, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(arrow.table({"evaluation": ["a", "b"], "row": [1, 2]}), file)
    refused(file.getvalue(), "report.detail.parquet", made, tmp_path)


def test_the_page_goes_without_them(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = json.loads((made / "report.json").read_bytes())
    data["detail"]["sha256"] = hashlib.sha256(b"PK\3\4").hexdigest()
    (tmp_path / "report.json").write_text(json.dumps(data))
    (tmp_path / data["detail"]["file"]).write_bytes(b"PK\3\4")
    result = CliRunner().invoke(cli, ["html", "report.json"])
    assert result.exit_code == 0
    assert "is no detail file of this report" in result.stderr
    assert "Traceback" not in result.stderr
