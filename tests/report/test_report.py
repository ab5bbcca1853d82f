"""Reports: the published schema, reading and writing, and a file that is never half written."""

import errno
import io
import json
import math
import os
import re
import stat
import sys

import jsonschema
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.models import BytesModel

from evalgpt import Document, EvaluationError, Row, Task, UsageError, evaluate, make_report, read_report, write_report
from evalgpt.cli import cli
from evalgpt.report.document import SCHEMA, row_info, to_json
from evalgpt.report.files import check_writable
from evalgpt.report.targets import Targets, document_kind

TEXT = "Größe ist nicht alles.\r\nA second line, so that there is more than one window to score.\n"
CASES = {
    "exact": ("exact", {}, {}),
    "without tokens": ("exact", {}, {"tokens": False}),
    "without spans": ("exact:context=8,stride=3", {"spans": False}, {}),
    "without prefix": ("exact:prefix=none", {"prefix_id": None}, {}),
    "lm-eval": ("lm-eval", {}, {}),
    "hf-strided": ("hf-strided:context=16,stride=4", {}, {}),
    "llama.cpp": ("llama.cpp:context=16", {"adds_bos": True}, {}),
    "book": ("book:context=4", {}, {}),
}


class Words(Task):
    name = "words"

    def __init__(self, *texts, context=""):
        self.texts = texts
        self.context = context

    def documents(self):
        for number, text in enumerate(self.texts):
            yield Document(f"words-{number}", text, self.context, group="g", label=str(number))

    def metrics(self, rows):
        return {"texts": len(list(rows))}


def report_of(*evaluations, command=("evalgpt", "run")):
    return make_report(evaluations, command)


def with_nll(nll):
    """A report with one row whose losses are ``nll``."""
    row = Row(Document("d", "x"), "", "x", 0, [0], None, 0, [], nll)
    return report_of(msgspec.structs.replace(EVALUATION, rows=[row_info(row, tokens=True)]))


EVALUATION = evaluate(BytesModel(), Words(TEXT))
REPORT = report_of(EVALUATION)
SMALL = report_of(msgspec.structs.replace(EVALUATION, rows=[]))  # fits into a pipe


@pytest.fixture(scope="module")
def validator():
    result = CliRunner().invoke(cli, ["schema"])
    schema = json.loads(result.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(params=[*CASES, "continuation", "too short", "several"])
def report(request):
    if request.param == "continuation":
        return report_of(evaluate(BytesModel(), Words(" effort", " moves", context="every")))
    if request.param == "too short":
        return report_of(evaluate(BytesModel(prefix_id=None), Words(TEXT, "a")))
    if request.param == "several":
        return report_of(EVALUATION, EVALUATION)
    protocol, model, options = CASES[request.param]
    return report_of(evaluate(BytesModel(**model), Words(TEXT), protocol, **options))


# schema


def test_a_written_report_is_valid(report, validator):
    validator.validate(json.loads(to_json(report)))


def test_the_schema_refuses_what_is_no_report(validator):
    good = json.loads(to_json(REPORT))
    validator.validate(good)
    assert not validator.is_valid({**good, "run": {k: v for k, v in good["run"].items() if k != "id"}})
    assert not validator.is_valid({**good, "evaluations": [{**good["evaluations"][0], "batch_tokens": "many"}]})


# reading


def test_a_report_is_read_as_it_was_written(report, tmp_path):
    path = str(tmp_path / "report.json")
    write_report(report, path)
    assert read_report(path) == report


def test_a_report_is_read_from_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(to_json(REPORT))))
    assert read_report("-") == REPORT


def test_a_document_of_another_kind_is_not_called_another_version(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({"schema": "evalgpt.comparison/1"}))
    with pytest.raises(UsageError, match=r"is no report: its schema is 'evalgpt\.comparison/1'"):
        read_report(str(path))


@pytest.mark.parametrize("version", ["evalgpt.report/2", "evalgpt.report/0", "other/1", ""])
def test_another_schema_version_is_refused(tmp_path, version):
    path = tmp_path / "report.json"
    # Another version may have any other fields: its name alone must be enough to refuse it.
    path.write_text(json.dumps({"schema": version, "runs": []}))
    with pytest.raises(UsageError) as raised:
        read_report(str(path))
    assert str(raised.value) == f"{path} has schema {version!r}; this evalgpt reads {SCHEMA!r}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"schema": 1}',
        b"\xff\xfe",
        b'{"schema": "\xff"}',
        json.dumps({"schema": SCHEMA}).encode(),
        to_json(REPORT)[:-100],
        to_json(REPORT).replace(b'"scores"', b'"scored"'),
    ],
    ids=lambda data: data[:12],
)
def test_what_is_no_report_is_refused(tmp_path, data):
    path = tmp_path / "report.json"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))} is not an evalgpt report: "):
        read_report(str(path))


def test_a_report_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the report .*nothere\.json: No such file"):
        read_report(str(tmp_path / "nothere.json"))
    with pytest.raises(UsageError, match=r"cannot read the report .*: Is a directory"):
        read_report(str(tmp_path))


# numbers and strings


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True), min_size=1))
def test_float32_losses_survive_exactly(losses):
    nll = np.array(losses, dtype=np.float32)
    read = msgspec.json.decode(to_json(with_nll(nll)), type=type(REPORT))
    assert np.array(read.evaluations[0].rows[0].tokenized.nll, dtype=np.float32).tobytes() == nll.tobytes()


def test_losses_are_written_as_short_as_they_can_be():
    assert b'"nll": [ 0.1, 10.824905, 3.0 ]' in to_json(with_nll(np.array([0.1, 10.824905, 3], dtype=np.float32)))


@pytest.mark.parametrize(
    "text", ["[1, 2]", "[\n  1,\n  2\n]", "a\\n[\n1]", '"[\n"', "line\nline\r\n\u2028", "\x00\x1b", "𝒳é"]
)
def test_any_string_survives(text, tmp_path):
    report = report_of(EVALUATION, command=["evalgpt", text, "[\n3\n]"])
    path = str(tmp_path / "report.json")
    write_report(report, path)
    assert read_report(path).run.command == ["evalgpt", text, "[\n3\n]"]


def test_a_list_of_numbers_is_one_line():
    lines = to_json(REPORT).decode().splitlines()
    for key in ("ids", "byte_starts", "byte_ends", "first", "size", "context", "nll"):
        found = [line for line in lines if line.strip().startswith(f'"{key}": [')]
        assert len(found) == 1
        assert found[0].rstrip(",").endswith("]")


def test_nan_and_infinity_become_null():
    peer = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "one": 1.0}
    data = to_json(report_of(msgspec.structs.replace(EVALUATION, peer=peer)))
    assert json.loads(data)["evaluations"][0]["peer"] == {"nan": None, "inf": None, "minus": None, "one": 1.0}


def test_a_perplexity_beyond_floats_is_written_and_read(tmp_path, validator):
    evaluation = evaluate(BytesModel(lambda context, target: 12.0), Words("x" * 100), "lm-eval")
    path = str(tmp_path / "report.json")
    write_report(report_of(evaluation), path)
    validator.validate(json.loads((tmp_path / "report.json").read_bytes()))
    assert read_report(path).evaluations[0].metrics == evaluation.metrics


def test_an_infinite_loss_leaves_no_report_that_cannot_be_read(tmp_path):
    path = tmp_path / "report.json"
    try:
        write_report(report_of(evaluate(BytesModel(lambda context, target: math.inf), Words(TEXT))), str(path))
    except EvaluationError:
        assert not path.exists()
    else:
        assert read_report(str(path)).evaluations


# writing


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("old", [{"report.json": b"old"}, {}], ids=["old file", "no old file"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function, error, old):
    def fail(*args):
        raise error

    path = tmp_path / "report.json"
    for name in old:
        (tmp_path / name).write_bytes(old[name])
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises((EvaluationError, KeyboardInterrupt)) as raised:
            write_report(REPORT, str(path))
    assert str(raised.value) == (f"cannot write {path}: {error.strerror}" if isinstance(error, OSError) else "")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old


def test_a_reader_never_sees_half_a_report(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_report(report_of(), str(path))
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(read_report(str(path))), fsync(handle)))
    write_report(REPORT, str(path))
    assert len(seen) == 1
    assert seen[0] != read_report(str(path)) == REPORT


def test_a_file_keeps_its_mode_and_a_new_one_has_what_the_umask_leaves(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.touch()
    old.chmod(0o604)
    umask = os.umask(0o027)
    try:
        for path in (old, new):
            write_report(REPORT, str(path))
    finally:
        os.umask(umask)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (old, new)] == [0o604, 0o640]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_a_link(tmp_path, exists):
    (tmp_path / "in").mkdir()
    target, link = tmp_path / "in" / "target.json", tmp_path / "link.json"
    if exists:
        target.write_text("{}")
    link.symlink_to("in/target.json")
    check_writable(str(link))
    write_report(REPORT, str(link))
    assert link.is_symlink()
    assert not target.is_symlink()
    assert read_report(str(target)) == REPORT
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "link.json", "target.json"]


def test_check_writable_changes_nothing(tmp_path):
    path = tmp_path / "report.json"
    check_writable(str(path))
    assert list(tmp_path.iterdir()) == []
    path.write_text("{old")
    check_writable(str(path))
    assert path.read_text() == "{old"


def test_a_file_that_is_no_report_is_not_overwritten(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("Once upon a time")
    with pytest.raises(UsageError, match="it holds something else than a report"):
        Targets().check(str(path), document_kind("report"))


def test_a_folder_is_not_writable(tmp_path):
    with pytest.raises(UsageError, match=re.escape(f"it is a folder; give a file such as {tmp_path / 'report.json'}")):
        check_writable(str(tmp_path))


@pytest.mark.parametrize("link", [False, True])
def test_a_missing_folder_is_named(tmp_path, link):
    path = tmp_path / "nothere" / "report.json"
    if link:
        (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(UsageError, match=re.escape(f"there is no folder {tmp_path / 'nothere'}")):
        check_writable(str(tmp_path / "link.json" if link else path))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_without_permission_is_found_before(tmp_path, what):
    path = tmp_path / "report.json"
    if what == "file":
        path.touch(0o400)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match=r"cannot write .*[Pp]ermission denied"):
        check_writable(str(path))
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_that_is_too_long_is_found_before(tmp_path, length):
    """A name that the file system takes is written; one that it does not is refused, both before the evaluation."""
    path = tmp_path / ("r" * (length - 5) + ".json")
    try:
        check_writable(str(path))
    except UsageError:
        assert length > 255
    else:
        write_report(REPORT, str(path))
        assert read_report(str(path)) == REPORT


def test_a_device_is_written_directly(monkeypatch):
    def fail(*args):
        raise AssertionError("a device must not be replaced by a file")

    monkeypatch.setattr(os, "replace", fail)  # as root it would be
    check_writable("/dev/null")
    write_report(REPORT, "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_named_pipe_gets_the_report(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        check_writable(str(path))
        write_report(SMALL, str(path))
        assert reader.read() == to_json(SMALL)
    assert path.is_fifo()


@pytest.mark.skipif(sys.platform != "linux", reason="where /dev/fd/N is a link that names no path")
def test_an_open_pipe_gets_the_report():
    """As a shell gives for ``-o >(gzip > report.json.gz)`` or ``-o /dev/stdout``."""
    reading, writing = os.pipe()
    with open(reading, "rb") as reader:
        with open(writing, "wb"):
            check_writable(f"/dev/fd/{writing}")
            write_report(SMALL, f"/dev/fd/{writing}")
        assert reader.read() == to_json(SMALL)
