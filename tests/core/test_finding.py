"""Which files a folder or a glob means: each real file once, hidden ones only where asked for."""

import os

import pytest
from support.models import BytesModel, uniform_loss

from evalgpt import EvaluationError, UsageError, evaluate
from evalgpt.core.plugins import load_plugins
from evalgpt.report.targets import _reads

PLUGINS = load_plugins()


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def linked(path, target):
    try:
        path.symlink_to(target)
    except OSError as error:
        pytest.skip(f"needs symbolic links: {error}")


def ids(spec):
    return [document.id for document in PLUGINS.task(spec).documents()]


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The working directory, with two texts in ``in``."""
    for name in ("a", "b"):
        written(tmp_path / "in" / f"{name}.txt", f"text {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


@pytest.mark.parametrize("spec", ["text:in/**/*.txt", "text:in/**", "text:**/*.txt", "text:in"])
def test_links_in_a_loop_end(inside, spec):
    for number in range(3):  # a walk that follows them sees 3 ** depth folders
        linked(inside / f"self{number}", ".")
        linked(inside / f"up{number}", "../in")
    folder = "" if spec == "text:in" else f"in{os.sep}"
    assert ids(spec) == [f"{folder}a.txt", f"{folder}b.txt"]


def test_a_report_among_looped_texts_is_told_apart(inside):
    """A target that exists is looked for among the files of a glob, whose links may be in a loop."""
    for number in range(3):
        linked(inside / f"self{number}", ".")
    report = written(inside.parent / "report.json", "{}")
    assert not _reads("in/**/*.txt", str(report))
    assert _reads("in/**/*.txt", "in/self1/a.txt")


def test_a_link_to_a_folder_is_followed_and_read_once(inside):
    written(inside.parent / "beside" / "c.txt", "text c")
    linked(inside / "link", "../beside")
    linked(inside / "second", "../beside")
    assert ids("text:in/**/*.txt") == [os.path.join("in", name) for name in ("a.txt", "b.txt", "link/c.txt")]


def test_a_link_to_a_folder_around_the_one_that_was_named_is_not_followed(inside):
    written(inside.parent / "outside.txt", "another text")
    linked(inside / "up", "..")
    assert ids("text:in") == ["a.txt", "b.txt"]


def test_each_real_file_is_read_once_under_its_own_name(inside):
    linked(inside / "0.txt", "a.txt")
    os.link(inside / "b.txt", inside / "c.txt")
    task = PLUGINS.task("text:in")
    assert [document.id for document in task.documents()] == ["a.txt", "b.txt"]
    assert any("2 names" in note and "0.txt (the same file as" in note for note in task.notes)
    assert any("2 names" in note for note in evaluate(BytesModel(uniform_loss), task).notes)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("text:in", ["a.txt", "b.txt"]),
        ("text:in,hidden=true", [".cache/deep/c.txt", ".d.txt", "a.txt", "b.txt"]),
        ("text:in/.cache", ["deep/c.txt"]),
        ("text:in/.d.txt", ["in/.d.txt"]),
        ("text:in/**/*.txt", ["in/a.txt", "in/b.txt"]),
        ("text:in/**/*.txt,hidden=true", ["in/.cache/deep/c.txt", "in/.d.txt", "in/a.txt", "in/b.txt"]),
        ("text:in/.*/**/*.txt", ["in/.cache/deep/c.txt"]),
        ("text:in/.*", ["in/.d.txt"]),
        ("text:*/[ab].txt", ["in/a.txt", "in/b.txt"]),
        ("text:*/.cache/**", ["in/.cache/deep/c.txt"]),
    ],
)
def test_hidden_files_and_folders_are_read_only_where_asked_for(inside, spec, found):
    written(inside / ".cache" / "deep" / "c.txt", "text c")
    written(inside / ".d.txt", "text d")
    assert ids(spec) == [name.replace("/", os.sep) for name in found]


def test_a_folder_whose_texts_are_all_hidden_says_how_to_read_them(tmp_path):
    written(tmp_path / "in" / ".a.txt", "text")
    with pytest.raises(EvaluationError, match="hidden=true"):
        ids(f"text:{tmp_path / 'in'}")


def test_what_is_not_a_file_is_left_out_with_a_note(inside):
    linked(inside / "gone.txt", "nowhere.txt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(inside / "pipe.txt")
    written(inside / "folder.txt" / "c.txt", "text c")
    for spec in ("text:in", "text:in/**/*.txt"):
        task = PLUGINS.task(spec)
        assert [document.text for document in task.documents()] == ["text a", "text b", "text c"]
        assert any("gone.txt" in note for note in task.notes)


@pytest.mark.parametrize("spec", ["text:in/gone.txt", "text:in/gone*"])
def test_a_broken_link_alone_is_refused(inside, spec):
    linked(inside / "gone.txt", "nowhere.txt")
    with pytest.raises(UsageError, match=r"gone"):
        ids(spec)


def test_minimal_pairs_of_a_folder(inside):
    for name in ("x.jsonl", ".hidden.jsonl"):
        written(inside / name, '{"sentence_good": "ab", "sentence_bad": "ba"}')
    linked(inside / "y.jsonl", "x.jsonl")
    assert ids("minimal-pairs:in") == ["x/1/good", "x/1/bad"]
    assert len(ids("minimal-pairs:in,hidden=true")) == 4


def test_a_file_not_yet_there_is_one_of_a_glob_by_whole_names_and_through_links(inside):
    (inside / "sub").mkdir()
    linked(inside.parent / "link", "in")
    for pattern, target, expected in [
        ("in/*.json", "in/r.json", True),
        ("in/*.json", "in/sub/r.json", False),
        ("in/**/*.json", "in/sub/r.json", True),
        ("in/**/*.json", "in/r.json", True),
        ("in/**", "in/sub/r.json", True),
        ("in/*/r.json", "in/sub/r.json", True),
        ("in/[a-q]*.json", "in/r.json", False),
        ("link/*.json", "in/r.json", True),
        ("in/*.json", "link/r.json", True),
        ("in/*.json", "r.json", False),
        ("**/*.json", "in/sub/r.json", True),
    ]:
        assert _reads(pattern, target) == expected, (pattern, target)
        if not expected:
            continue
        written(inside.parent / target, "{}")
        assert _reads(pattern, target), "and once it is there"
        (inside.parent / target).unlink()
