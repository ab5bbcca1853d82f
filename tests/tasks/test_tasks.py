"""The tasks: which documents they yield, and what they say of a text that cannot be used."""

import hashlib
import io
import re
import sys
from pathlib import Path

import platformdirs
import pooch
import pytest

from evalgpt import Document, EvaluationError, UsageError
from evalgpt.adapters.gpt.tokenizer import GPT2Tokenizer
from evalgpt.core.plugins import load_plugins
from evalgpt.tasks import books

PLUGINS = load_plugins()
ROOT = Path(__file__).parent.parent.parent


def documents(spec):
    return list(PLUGINS.task(spec).documents())


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty folder for $EVALGPT_DATA and an empty user cache; downloads are errors."""

    def no_download(*args, **kwargs):
        raise AssertionError("tests do not download")

    monkeypatch.setenv("EVALGPT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pooch, "retrieve", no_download)
    return tmp_path / "data", Path(platformdirs.user_cache_dir("evalgpt", appauthor=False))


@pytest.fixture
def stdin(monkeypatch):
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# pairs


def test_the_lectures_pairs_are_two_documents():
    assert documents("pairs") == [
        Document("pair-1", " effort moves you", "every"),
        Document("pair-2", " really like chocolate", "I"),
    ]
    assert PLUGINS.task("pairs").default_protocol == "exact:prefix=none"


def test_the_lectures_pairs_have_the_lectures_token_ids():
    encode = GPT2Tokenizer().encode
    ids = [list(encode(document.context + document.text).ids) for document in documents("pairs")]
    assert ids == [[16833, 3626, 6100, 345], [40, 1107, 588, 11311]]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
def test_pairs_from_jsonl_in_its_three_forms(tmp_path, suffix):
    path = written(
        tmp_path / f"pairs{suffix}",
        '{"context": "every", "continuation": " effort moves you", "id": 7}\n'
        "\n"
        '{"input": "I really like", "target": " really like chocolate"}\r\n'
        '{"text": "a\\u2028b\\nc"}',
    )
    assert documents(f"pairs:{path}") == [
        Document("7", " effort moves you", "every"),
        Document("line-3", " really like chocolate", "I"),
        Document("line-4", "a\u2028b\nc"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_from_tsv(tmp_path, end):
    lines = [
        "every effort moves\t effort moves you",
        "",
        "ha ha\t ha ha",
        "I like cats\tsure do",
        "Paris is\t in France",
    ]
    path = written(tmp_path / "pairs.tsv", end.join(lines) + end)
    assert documents(f"pairs:{path}") == [
        Document("line-1", " effort moves you", "every"),
        Document("line-3", " ha ha", "ha"),
        Document("line-4", "sure do", "I like cats"),
        Document("line-5", " in France", "Paris is"),
    ]


@pytest.mark.parametrize("mark", ["\x0c", "\x85", "\u2028"], ids=["form feed", "NEL", "line separator"])
def test_only_a_newline_ends_a_line_of_tsv(tmp_path, mark):
    path = written(tmp_path / "pairs.tsv", f"every{mark} effort moves\t{mark} effort moves you\n")
    assert documents(f"pairs:{path}") == [Document("line-1", f"{mark} effort moves you", "every")]


def test_pairs_from_standard_input(stdin):
    stdin(b"every effort\t effort moves\n")
    assert documents("pairs:-") == [Document("line-1", " effort moves", "every")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.jsonl", '{"text": "a"}\n\n{"text": ', "line 3 is not JSON"),
        ("p.jsonl", '{"text": "a"}\n[1, 2]\n', "line 2 is not a JSON object"),
        ("p.jsonl", '{"text": "a"}\n{"prompt": "a", "answer": "b"}', "line 2 has the fields prompt, answer; expected"),
        ("p.jsonl", "{}", "line 1 has the fields (none); expected"),
        ("p.jsonl", '{"context": "a", "continuation": ""}', "line 1: continuation is empty"),
        ("p.jsonl", '{"text": 7}', "line 1: text is a number"),
        ("p.jsonl", '{"input": "a b", "target": "x y"}', "line 1: the target 'x y' is not the input 'a b' moved on"),
        ("p.jsonl", '{"text": "\\ud800"}', "line 1"),
        ("p.tsv", "a b\tb c\nno tab\n", "line 2 has 1 filled tab-separated cells, expected 2"),
        ("p.tsv", "a b\tb c\n\na\tb\tc\n", "line 3 has 3 filled tab-separated cells, expected 2"),
        ("p.tsv", "a\t\n", "line 1 has 1 filled tab-separated cells, expected 2"),
        ("p.tsv", "\n\n", "holds no pairs; expected JSONL with"),
        ("p.tsv", "", "is empty"),
        ("p.tsv", b"caf\xe9 au\tau lait\n", "is not UTF-8: byte 3 is 0xe9"),
    ],
)
def test_pairs_that_cannot_be_used(tmp_path, name, content, says):
    path = written(tmp_path / name, content)
    with pytest.raises(EvaluationError) as raised:
        documents(f"pairs:{path}")
    assert str(raised.value).startswith(str(path))
    assert says in str(raised.value)


def test_pairs_from_a_file_that_is_not_there():
    with pytest.raises(UsageError, match=r"there is no file nothere\.tsv"):
        documents("pairs:nothere.tsv")


# verdict and story


def test_the_verdict_is_the_published_one(verdict):
    (document,) = documents("verdict")
    assert document.text.encode() == verdict.read_bytes()
    assert len(document.text) == 20479
    assert sha256(document.text.encode()) == "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
    assert PLUGINS.task("verdict").default_protocol == "book"


def test_the_verdict_is_looked_up_in_evalgpt_data_first(folders, monkeypatch):
    data, cache = folders
    written(data / "the-verdict.txt", "from the data folder")
    written(cache / "the-verdict.txt", "from the cache")
    monkeypatch.setattr(books, "VERDICT_SHA256", sha256(b"from the data folder"))
    assert documents("verdict") == [Document("verdict", "from the data folder")]


@pytest.mark.parametrize("unset", [False, True])
def test_the_verdict_is_looked_up_in_the_cache_next(folders, monkeypatch, unset):
    if unset:
        monkeypatch.delenv("EVALGPT_DATA")
    written(folders[1] / "the-verdict.txt", "from the cache")
    monkeypatch.setattr(books, "VERDICT_SHA256", sha256(b"from the cache"))
    assert documents("verdict") == [Document("verdict", "from the cache")]


def test_the_verdict_is_downloaded_last_into_the_cache_with_its_hash(folders, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path, **options):
        asked.append((url, known_hash))
        return str(written(Path(path) / fname, "downloaded"))

    digest = sha256(b"downloaded")
    monkeypatch.setattr(books, "VERDICT_SHA256", digest)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert documents("verdict") == [Document("verdict", "downloaded")]
    assert asked == [(books.VERDICT_URL, f"sha256:{digest}")]
    assert (folders[1] / "the-verdict.txt").is_file()
    assert documents("verdict") == [Document("verdict", "downloaded")]
    assert len(asked) == 1, "the second time it is in the cache"


@pytest.mark.parametrize("where", [0, 1], ids=["data", "cache"])
def test_another_text_called_the_verdict_is_refused(folders, where):
    path = written(folders[where] / "the-verdict.txt", "Another text")
    with pytest.raises(EvaluationError) as raised:
        documents("verdict")
    assert all(part in str(raised.value) for part in (str(path), "SHA-256 differs", f"text:{path}"))


def test_offline_the_verdict_names_both_ways(folders, monkeypatch):
    def retrieve(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(EvaluationError) as raised:
        documents("verdict")
    assert all(part in str(raised.value) for part in ("the-verdict.txt", "EVALGPT_DATA", "connect to the internet"))


def test_the_story_comes_with_evalgpt(folders):
    (document,) = documents("story")
    data = (ROOT / "tasks" / "story.txt").read_bytes()
    assert document == Document("story", data.decode())
    assert sha256(data) == books.STORY_SHA256
    assert len(document.text) >= 20_000
    assert f"{len(document.text):,} characters" in PLUGINS.find("task", "story").summary


@pytest.mark.parametrize("name", ["verdict", "story"])
def test_a_book_takes_no_argument(name):
    with pytest.raises(UsageError, match=re.escape(f"task {name!r} takes no argument; for a file of your own")):
        documents(f"{name}:book.txt")


# text


def test_a_file_is_one_document_byte_for_byte(tmp_path):
    data = b"\xef\xbb\xbfHello\r\nworld\r\rand\x0c\xe2\x80\xa8on\n\n"
    path = written(tmp_path / "book.txt", data)
    (document,) = documents(f"text:{path}")
    assert document.id == str(path)
    assert document.text.encode() == data


def test_a_file_name_may_hold_commas_and_colons(tmp_path):
    path = written(tmp_path / "one, two: three.txt", "text")
    assert documents(f"text:{path}") == [Document(str(path), "text")]


def test_a_folder_is_read_sorted_and_all_the_way_down(tmp_path):
    for name in ("b.txt", "a/z.md", "a/deep/er.text", "c.rst", "a.txt"):
        written(tmp_path / name, name)
    written(tmp_path / "image.png", b"\x89PNG")
    written(tmp_path / "d.jsonl", '{"text": "first"}\n{"text": "second"}\n')
    found = [(d.id, d.text) for d in documents(f"text:{tmp_path}")]
    files = ["a.txt", "a/deep/er.text", "a/z.md", "b.txt", "c.rst"]
    assert found == [*((f, f) for f in files), ("d.jsonl:1", "first"), ("d.jsonl:2", "second")]


def test_a_glob_is_read_sorted(tmp_path):
    for name in ("b.log", "a.log", "c.txt", "in/d.log"):
        written(tmp_path / name, name)
    assert [d.text for d in documents(f"text:{tmp_path}/*.log")] == ["a.log", "b.log"]
    assert [d.text for d in documents(f"text:{tmp_path}/**/*.log")] == ["a.log", "b.log", "in/d.log"]


def test_standard_input_is_read_byte_for_byte(stdin):
    stdin(b"\xef\xbb\xbfcaf\xc3\xa9\r\n")
    assert documents("text:-") == [Document("-", "\ufeffcafé\r\n")]


def test_jsonl_takes_the_field_that_is_named(tmp_path):
    path = written(tmp_path / "d.jsonl", '{"body": "one\\r\\n", "text": "not this"}\n\n{"body": "three"}')
    assert documents(f"text:{path},field=body") == [
        Document(f"{path}:1", "one\r\n"),
        Document(f"{path}:3", "three"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.txt", b"", "is empty; there is nothing to score"),
        ("t.txt", b"good\xff\xfe", "is not UTF-8: byte 4 is 0xff"),
        ("t.txt", "é".encode() + b"\xe9", "is not UTF-8: byte 2 is 0xe9"),
        (
            "t.jsonl",
            '{"body": "a", "title": "b"}',
            "line 1 has no field 'text' (missing); it has body, title: name",
        ),
        ("t.jsonl", '{"text": "a"}\n{}', "line 2 has no field 'text' (missing); it has none"),
        ("t.jsonl", '{"text": "a"}\n{"text": ["a"]}', "line 2: text is an array"),
        ("t.jsonl", '{"text": "a"}\n\n{"text": ""}', "line 3: text is empty"),
        ("t.jsonl", '{"text": "a"}\n{text}', "line 2 is not JSON"),
        ("t.jsonl", '{"text": "a"}\n{"text": "\\ud800"}', "line 2"),
        ("t.jsonl", "\n", "holds no records"),
    ],
)
def test_text_that_cannot_be_used(tmp_path, name, content, says):
    path = written(tmp_path / name, content)
    with pytest.raises(EvaluationError) as raised:
        documents(f"text:{path}")
    assert str(raised.value).startswith(str(path))
    assert says in str(raised.value)


def test_a_folder_without_text_says_what_was_looked_for(tmp_path):
    written(tmp_path / "image.png", b"\x89PNG")
    with pytest.raises(EvaluationError, match=re.escape(f"{tmp_path} holds no text; looked for .txt, ")):
        documents(f"text:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("text", "needs a path"),
        ("text:nothere.txt", "there is no file or folder nothere.txt"),
        ("text:nothere-*.txt", "no file matches nothere-*.txt"),
    ],
)
def test_a_path_that_is_not_there_is_refused(spec, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        documents(spec)


def test_a_line_that_is_not_json_is_named_by_one_number(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text" 3}\n')
    with pytest.raises(EvaluationError, match="line 2 is not JSON") as refused:
        list(load_plugins().task(f"text:{tmp_path}/bad.jsonl").documents())
    assert str(refused.value).count(" line ") == 1
    assert "column 9" in str(refused.value)


def test_a_folder_notes_what_it_leaves_out_by_name(tmp_path):
    written(tmp_path / "a.txt", "a")
    for name in ("notes.docx", "LICENSE", "run.log", "z.bin"):
        written(tmp_path / name, b"PK\x03\x04")
    (note,) = PLUGINS.task(f"text:{tmp_path}").notes
    assert "LICENSE, notes.docx, run.log and 1 more" in note
    (tmp_path / "z.bin").unlink()
    (note,) = PLUGINS.task(f"text:{tmp_path}").notes
    assert "run.log" in note
    assert "more" not in note


def test_a_folder_with_a_docx_alone_says_so(tmp_path):
    written(tmp_path / "report.docx", b"PK\x03\x04")
    with pytest.raises(EvaluationError, match=r"holds no text; looked for \.txt.*report\.docx"):
        documents(f"text:{tmp_path}")
