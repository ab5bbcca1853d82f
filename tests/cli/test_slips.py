"""The commonest slips on the command line: what the error or the note says."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from evalgpt.cli import cli

MODEL = "scratch:n_layers=1,n_heads=1,emb_dim=8,context_length=16"


def evalgpt(*args):
    return CliRunner().invoke(cli, args)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/training.json").write_text("{}")
    Path("book.txt").write_text("Every effort moves you.")


@pytest.mark.parametrize(("args", "meant"), [(["rnu"], "'run'"), (["run", "--modle", "x"], "'--model'")])
def test_what_was_meant_is_asked_in_one_sentence(args, meant):
    result = evalgpt(*args)
    assert result.exit_code == 2
    assert f"{meant}? See" in result.stderr


@pytest.mark.parametrize("args", [["show", "run"], ["compare", "run", "run"], ["verify", "run"]])
def test_the_folder_of_a_training_run_is_known(here, args):
    result = evalgpt(*args)
    assert result.exit_code != 0
    assert "evalgpt html run" in result.stdout + result.stderr


@pytest.mark.parametrize("args", [["explain"], ["generate", "--tokens", "1"]])
def test_a_text_that_is_the_name_of_a_file_gets_a_note(here, args):
    for text, noted in (("book.txt", True), ("Every effort", False)):
        result = evalgpt(*args, "-q", "-m", MODEL, text)
        assert result.exit_code == 0, result.stderr
        assert ("- < book.txt" in result.stderr) == noted


@pytest.mark.parametrize("twice", [["-o", "a.json", "--output", "b.json"], ["-p", "exact", "--protocol=book"]])
def test_an_option_of_one_value_is_not_given_twice(here, twice):
    result = evalgpt("run", "-q", "-q", "-m", MODEL, "-t", "text:book.txt", *twice)
    assert result.exit_code == 2
    assert "given twice" in result.stderr
    assert not Path("b.json").exists()
