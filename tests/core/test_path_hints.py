"""A path given in place of a name: the error shows the spec that reads it."""

from pathlib import Path

import pytest

from evalgpt import EvaluationError, UsageError
from evalgpt.core.hooks import reads
from evalgpt.core.plugins import default_plugins, load_plugins
from evalgpt.core.specs import how_to_read


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("book.txt", "x.safetensors", "run/best.safetensors", "mine/config.json", "mine/m.gguf"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("{}")


@pytest.mark.parametrize(
    ("kind", "path", "spec"),
    [
        ("task", "book.txt", "text:book.txt"),
        ("task", "run", "text:run"),
        ("model", "x.safetensors", "scratch:weights=x.safetensors"),
        ("model", "run", "scratch:weights=run/best.safetensors"),
        ("model", "run/best.safetensors", "scratch:weights=run/best.safetensors"),
        ("model", "mine", "hf:./mine"),
        ("model", "mine/m.gguf", "hf:./mine,gguf=m.gguf"),
    ],
)
def test_the_spec_that_reads_a_path_is_shown(here, kind, path, spec):
    with pytest.raises(UsageError, match="unknown") as refused:
        default_plugins().find(kind, path)
    assert f"write {spec};" in str(refused.value)


@pytest.mark.parametrize(("kind", "name"), [("task", "nope.txt"), ("model", "book.txt"), ("protocol", "book.txt")])
def test_what_nothing_reads_gets_no_hint(here, kind, name):
    with pytest.raises(UsageError, match="unknown") as refused:
        default_plugins().find(kind, name)
    assert "write" not in str(refused.value)


@pytest.mark.parametrize("spec", ["scratch:run", "scratch:run/best.safetensors", "scratch:weights=run"])
def test_scratch_names_the_checkpoint_of_a_training_run(here, spec):
    with pytest.raises(UsageError, match=r"write scratch:weights=run/best\.safetensors"):
        default_plugins().model(spec)


def test_a_plugins_reads_that_raises_is_named(here):
    @reads(lambda path: str(1 // 0))
    def make(argument):
        """One."""

    with pytest.raises(EvaluationError, match="one"):
        how_to_read("book.txt", {"one": make})


@pytest.mark.parametrize("name", ["own", "./own"])
def test_a_plugins_file_named_without_its_suffix_is_shown(here, name):
    Path("own.py").write_text("")
    with pytest.raises(UsageError, match=r"write (\./)?own\.py"):
        load_plugins([name])
