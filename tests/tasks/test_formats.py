"""Kinds of file that the task ``text`` reads, names or refuses."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import sqlite3
import sys
import tarfile
import threading
import zipfile
from contextlib import closing

import numpy as np
import pytest

from evalgpt import Document, EvaluationError, UsageError
from evalgpt.core.plugins import load_plugins
from evalgpt.tasks import reading
from evalgpt.tasks import text as module

PLUGINS = load_plugins()
PROSE = "The mill stood by the river.\r\nIts wheel turned – slowly.\n"


def task(path, *options):
    return PLUGINS.task(",".join([f"text:{path}", *options]))


def texts(path, *options):
    return [document.text for document in task(path, *options).documents()]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path, *options):
    with pytest.raises((EvaluationError, UsageError)) as raised:
        texts(path, *options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("long", [False, True])
def test_compressed_texts_are_read_whatever_their_name(tmp_path, monkeypatch, compress, long):
    if long:
        monkeypatch.setattr(module, "LONG", 0)
    path = written(tmp_path / "book.txt.gz", compress(PROSE.encode()))
    assert [document.whole().text for document in task(path).documents()] == [PROSE]
    path = written(tmp_path / "rows.jsonl.gz", compress(b'{"text": "one"}\n{"text": "two"}'))
    assert texts(path) == ["one", "two"]
    (tmp_path / "cut.txt").write_bytes(compress(os.urandom(9999))[:-99])
    assert "decompressed" in "".join(refused_parts(tmp_path / "cut.txt"))


def refused_parts(path):
    with pytest.raises(EvaluationError) as raised:
        [document.whole() for document in task(path).documents()]
    return str(raised.value)


def test_standard_input_may_be_compressed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(PROSE.encode()))))
    assert texts("-") == [PROSE]


def numpy_file():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def zip_file():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), "text")  # of 1980: the bytes name a test, in every process
    return file.getvalue()


def database():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create table t (a)")
        return connection.serialize()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PROSE.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff" + PROSE.encode("utf-16-be"), "iconv -f UTF-16 -t UTF-8"),
        (PROSE.encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
        (b"%PDF-1.7\n", "PDF"),
        (zip_file(), "zip archive"),
        (database(), "SQLite"),
        ((24).to_bytes(8, "little") + b'{"__metadata__":{}}     ', "safetensors"),
        (pickle.dumps({"a": [1.0]}), "pickle"),
        (numpy_file(), "NumPy"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd -d"),
        (gzip.compress(zip_file(), mtime=0), "zip archive"),
    ],
)
def test_what_is_not_text_is_named(tmp_path, content, says):
    assert says in refused(written(tmp_path / "a.txt", content))


@pytest.mark.parametrize("text", ["PK is short for", "GIF89a is a format", "PAR1 is", "BZh is", "GGUF files", "%!PS"])
def test_texts_that_begin_like_other_kinds_are_texts(tmp_path, text):
    assert texts(written(tmp_path / "a.txt", text)) == [text]


def test_a_json_array_of_objects_or_texts(tmp_path):
    path = written(tmp_path / "a.json", '[{"text": "one", "n": 1},\n {"text": "two"}]')
    assert list(task(path).documents()) == [Document(f"{path}:1", "one"), Document(f"{path}:2", "two")]
    assert texts(written(tmp_path / "b.json", '["one", "two"]')) == ["one", "two"]
    assert texts(written(tmp_path / "c.json", '{"text": "one"}\n{"text": "two"}\n')) == ["one", "two"]
    assert "holds an object" in refused(written(tmp_path / "d.json", '{"text": "one"}'))
    assert "is not JSON" in refused(written(tmp_path / "e.json", "[1, 2"))
    assert "row 2: it is a number, and a text is wanted" in refused(written(tmp_path / "f.json", '["a", 2]'))


def test_csv_and_tsv(tmp_path):
    path = written(
        tmp_path / "a.csv", '\ufeffid,text\r\n1,"The mill, by the river."\r\n2,"Wheel\nturns"\r\n3,"a ""b"""\r\n'
    )
    assert list(task(path).documents()) == [
        Document(f"{path}:2", "The mill, by the river."),
        Document(f"{path}:3", "Wheel\nturns"),
        Document(f"{path}:5", 'a "b"'),
    ]
    assert texts(path, "field=id") == ["1", "2", "3"]
    assert texts(written(tmp_path / "a.tsv", "body\tn\na, b\t2\n"), "field=body") == ["a, b"]
    assert "line 2 has no field 'text' (missing); it has id, body" in refused(
        written(tmp_path / "b.csv", "id,body\n1,a\n")
    )
    assert "line 3 has more cells" in refused(written(tmp_path / "c.csv", "id,text\n1,a\n2,b,c\n"))
    assert "as CSV" in refused(written(tmp_path / "d.csv", 'id,text\n1,"open\n'))
    assert texts(written(tmp_path / "e.csv", "id,text\n1,\n2,b\n3\n"), "skip=true") == ["b"]


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.data"
    parquet.write_table(arrow.table({"text": ["one", None, "three"], "n": [1, 2, 3]}), path)
    assert "row 2: text is null" in refused(path)
    assert texts(path, "skip=true") == ["one", "three"]
    assert "row 1: n is a number" in refused(path, "field=n")
    assert "it has text, n" in refused(path, "field=body")
    written(tmp_path / "cut.parquet", path.read_bytes()[:99])
    assert "cannot be read as Parquet" in refused(tmp_path / "cut.parquet")
    assert "not a Parquet file" in refused(written(tmp_path / "no.parquet", "text"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "evalgpt[parquet]" in refused(written(tmp_path / "a.parquet", b"PAR1\x15\0\0\0"))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"text": null}', "text is null"),
        ('{"text": ""}', "text is empty"),
        ('{"text": NaN}', "text is NaN"),
        ('{"body": "a"}', "(missing); it has body"),
    ],
)
def test_rows_without_a_text_are_named_or_skipped(tmp_path, row, says):
    path = written(tmp_path / "a.jsonl", f'{{"text": "one"}}\n{row}\n{{"text": "three"}}\n')
    message = refused(path)
    assert says in message
    assert ", line 2" in message
    assert "skip=true" in message
    found = task(path, "skip=true")
    assert [document.id for document in found.documents()] == [f"{path}:1", f"{path}:3"]
    (note,) = found.notes
    assert note.startswith("skipped 1 ")
    assert "line 2" in note
    assert len(list(found.documents())) == 2
    assert len(found.notes) == 1
    assert "nothing is left" in refused(written(tmp_path / "b.jsonl", row), "skip=true")


@pytest.mark.parametrize("value", ["5", "[1]", "true", '{"a": 1}'])
def test_what_is_no_text_is_refused_also_with_skip(tmp_path, value):
    assert ", and a text is wanted" in refused(written(tmp_path / "a.jsonl", f'{{"text": {value}}}'), "skip=true")


def test_lines_that_end_in_carriage_returns_alone_are_named(tmp_path):
    assert "carriage returns" in refused(written(tmp_path / "a.jsonl", '{"text": "a"}\r{"text": "b"}\r'))


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_a_file_without_a_text_is_refused_or_skipped(tmp_path, content):
    written(tmp_path / "a.txt", "text")
    written(tmp_path / "b.txt", content)
    assert "nothing to score" in refused(tmp_path)
    found = task(tmp_path, "skip=true")
    assert [document.id for document in found.documents()] == ["a.txt"]
    assert "b.txt" in found.notes[0]


def test_a_file_that_changes_between_two_models_is_refused(tmp_path):
    path = written(tmp_path / "a.txt", "text")
    found = task(path)
    assert len(list(found.documents())) == len(list(found.documents())) == 1
    written(path, "another text")
    with pytest.raises(EvaluationError, match="changed while"):
        list(found.documents())
    path.unlink()
    with pytest.raises(UsageError, match="cannot read"):
        list(found.documents())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.jsonl", '{"text": "one", "text": "two"}'),
        ("r.json", '[{"text": "one", "text": "two"}]'),
        ("r.csv", "text,text\none,two\n"),
    ],
)
def test_a_text_given_twice_in_one_record_is_refused(tmp_path, name, content):
    assert "'text' more than once" in refused(written(tmp_path / name, content))
    other = content.replace("text", "id", 1).replace("text", "id", 1)
    other = other.replace('"two"', '"two", "text": "three"').replace("id,id\none,two", "id,id,text\none,two,three")
    assert texts(written(tmp_path / name, other)) == ["three"]


def test_half_a_surrogate_pair_beside_the_text_does_no_harm(tmp_path):
    assert texts(written(tmp_path / "r.jsonl", '{"text": "one", "from": "\\ud800"}')) == ["one"]
    assert "surrogate" in refused(written(tmp_path / "r.jsonl", '{"text": "\\ud800"}'))


def test_an_integer_longer_than_python_reads_is_a_number(tmp_path):
    assert texts(written(tmp_path / "r.jsonl", f'{{"text": "one", "id": {"1" * 9999}}}')) == ["one"]
    assert "is a number" in refused(written(tmp_path / "r.jsonl", f'{{"text": {"1" * 9999}}}'))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('id,text\n1,"open\n2,more\n', ["line 2", "quote"]),
        ("id,text\r1,one\r", ["line 1", "carriage returns"]),
        ("id,text\n1,one\n2\n", ["line 3", "missing"]),
    ],
)
def test_an_error_in_csv_names_the_line_where_its_row_begins(tmp_path, content, says):
    message = refused(written(tmp_path / "r.csv", content))
    assert all(part in message for part in says), message


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_skip_leaves_out_files_without_a_text_whatever_their_kind(tmp_path, name, content):
    if name == "a.json" and content:
        content = "[]"
    written(tmp_path / name, content)
    written(tmp_path / "b.txt", "a text")
    message = refused(tmp_path / "*")
    assert name in message
    assert "skip=true" in message
    skipping = task(tmp_path / "*", "skip=true")
    assert [document.text for document in skipping.documents()] == ["a text"]
    assert name in skipping.notes[0]
    alone = refused(tmp_path / name, "skip=true")
    assert name in alone
    assert not (content and name == "a.txt" and "is empty" in alone)


def test_notes_on_names_that_are_not_utf8_are_text(tmp_path):
    try:
        for byte in (b"\xe8", b"\xe9"):
            written(tmp_path / f"n{byte.decode(errors='surrogateescape')}.jsonl", '{"text": ""}\n{"text": "one"}')
    except OSError as error:
        pytest.skip(f"needs file names that are not UTF-8: {error}")
    skipping = task(tmp_path, "skip=true")
    assert [document.id for document in skipping.documents()] == ["n\\xe8.jsonl:2", "n\\xe9.jsonl:2"]
    assert "n\\xe8.jsonl" in skipping.notes[0].encode().decode()


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ("it\x92s".encode("latin1"), "WINDOWS-1252"),
        ("é and ".encode() + b"\xff", "iconv -c -f UTF-8"),
        ("a cut é".encode()[:-1], "iconv -c -f UTF-8"),
    ],
)
def test_the_advice_for_bytes_that_are_not_utf8_fits_them(tmp_path, content, advice):
    assert advice in refused(written(tmp_path / "a.txt", content))


def test_a_line_longer_than_many_parts_is_put_together_once():
    parts = ["ab"] * 200_000  # joined anew for each part, this takes minutes
    assert [len(line) for line in reading.lines_of([*parts, "\n\nc", "d"])] == [400_000, 0, 2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("spec", ["text", "pairs"])
def test_a_named_pipe_is_opened_once(tmp_path, spec):
    """A second reader would wait for ever for somebody to write again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("one\ttwo",), daemon=True)
    writer.start()
    piped = PLUGINS.task(f"{spec}:{pipe}")
    read = threading.Thread(target=lambda: found.extend(piped.documents()), daemon=True)
    found: list[Document] = []
    read.start()
    read.join(10)
    assert not read.is_alive()
    assert found[0].text == ("one\ttwo" if spec == "text" else "two")


@pytest.mark.parametrize("spec", ["text:{}", "pairs:{}", "minimal-pairs:{}"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, spec):
    line = '{"text": "one", "sentence_good": "a", "sentence_bad": "b"}\n'
    path = written(tmp_path / "r.jsonl", line * 2)
    documents = iter(PLUGINS.task(spec.format(path)).documents())
    next(documents)
    written(path, line * 3)
    with pytest.raises(EvaluationError, match="changed while"):
        list(documents)
    reading_again = PLUGINS.task(spec.format(path))
    list(reading_again.documents())
    written(path, line)
    with pytest.raises(EvaluationError, match="changed while"):
        list(reading_again.documents())


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_archive_is_named(tmp_path, mode):
    written(tmp_path / "a.txt", PROSE)
    with tarfile.open(tmp_path / "t.txt", mode) as archive:
        archive.add(tmp_path / "a.txt", "a.txt")
    assert "a tar archive" in refused(tmp_path / "t.txt")


def test_what_is_compressed_twice_is_named(tmp_path):
    assert "within one" in refused(written(tmp_path / "a.txt.gz", gzip.compress(gzip.compress(PROSE.encode()))))


def test_a_path_that_cannot_be_looked_at_is_a_wrong_request():
    for spec in ("text", "pairs", "minimal-pairs"):
        with pytest.raises(UsageError, match="name too long"):
            PLUGINS.task(f"{spec}:{'x' * 300}")


def test_an_empty_field_is_none(tmp_path):
    with pytest.raises(UsageError, match="field="):
        task(written(tmp_path / "r.jsonl", '{"text": "one"}'), "field=")


def test_a_path_that_looks_like_an_option_is_told_how_to_be_written(tmp_path):
    path = written(tmp_path / "a,field=b.txt", "one")
    with pytest.raises(UsageError) as raised:
        task(path)
    spec = str(raised.value).rpartition("as in ")[2]
    assert [document.text for document in PLUGINS.task(spec).documents()] == ["one"]


def test_a_folder_is_searched_whatever_the_case_and_says_what_it_leaves_out(tmp_path):
    written(tmp_path / "A.TXT", "one")
    written(tmp_path / "notes.log", "no text by its name")
    written(tmp_path / "report.json", '{\n  "schema": 1}')
    (note,) = task(tmp_path).notes
    assert "notes.log, report.json;" in note
    for name in ("b.txt.gz", "c.csv"):
        written(tmp_path / name, "text\ntwo")
    found = task(tmp_path)
    assert [document.id for document in found.documents()] == ["A.TXT"]
    assert len(found.notes) == 2
    assert "2 files" in found.notes[0]
    assert "b.txt.gz" in found.notes[0]
    (tmp_path / "A.TXT").unlink()
    assert "b.txt.gz" in refused(tmp_path)
    assert texts(f"{tmp_path}/**/*.csv") == ["two"]


def test_a_parquet_column_given_twice_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    table = pyarrow.Table.from_arrays([pyarrow.array(["one"]), pyarrow.array(["two"])], names=["text", "text"])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "r.parquet")
    assert "'text' more than once" in refused(tmp_path / "r.parquet")
