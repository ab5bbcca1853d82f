"""What a person reads: every number and name, whatever the width of the terminal."""

import io

import pytest
from rich.console import Console
from support.models import BytesModel

import evalgpt
from evalgpt import Document, Task
from evalgpt.studies.compare.comparison import compare
from evalgpt.views.terminal.comparison import print_comparisons
from evalgpt.views.terminal.console import print_rows, say
from evalgpt.views.terminal.evaluation import HEADERS, _rows, print_evaluations


class Texts(Task):
    name = "texts"

    def documents(self):
        yield Document("d", "some words that are read, one after the other, until they end " * 5)


@pytest.fixture
def evaluation():
    return evalgpt.evaluate(BytesModel(), Texts(), "book:context=16")


def printed(width, evaluation):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, markup=False)
    print_rows(console, HEADERS, _rows([evaluation]), left=2)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 160])
def test_no_number_and_no_name_is_cut(width, evaluation):
    text = printed(width, evaluation)
    assert "…" not in text
    for row in _rows([evaluation]):
        for cell in row:
            assert cell.strip() in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_the_usual_table_fits_eighty_columns(evaluation):
    assert "─" in printed(80, evaluation)
    assert "─" not in printed(40, evaluation)


def test_sentences_wrap_between_words_on_a_terminal_and_not_in_a_pipe():
    sentence = "a sentence of several words that is longer than the terminal is wide"
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=30, force_terminal=terminal, color_system=None)
        say(console, sentence, indent=2)
        text = console.file.getvalue()
        assert " ".join(text.split()) == sentence
        assert (len(text.splitlines()) > 1) == terminal


def test_control_characters_are_spelled_out(capsys):
    class Hostile(Texts):
        name = "esc\x1b[2J\x07"

    print_evaluations([evalgpt.evaluate(BytesModel(), Hostile())])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "esc\\x1b[2J" in out


def test_a_comparison_names_both_models_and_the_difference(capsys):
    a = evalgpt.evaluate(BytesModel(), Texts())
    b = evalgpt.evaluate(BytesModel(lambda context, target: 1.0), Texts())
    print_comparisons([compare(a, b)])
    out = capsys.readouterr().out
    gap = compare(a, b).bits_per_byte_difference
    assert f"{gap.value:+.4f}" in out
    assert f"by {abs(gap.value):.4f} bits per byte" in out
