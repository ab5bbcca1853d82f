"""Options as a dataclass and as keywords: the same names and types, and no others."""

from dataclasses import fields
from typing import get_type_hints

import numpy as np
import pytest
from support.models import BytesModel
from support.pages import Texts

import evalgpt
from evalgpt import UsageError
from evalgpt.scoring.options import Changes, Options
from evalgpt.studies.compare.models import ComparisonChanges, ComparisonOptions
from evalgpt.studies.generation import GenerationChanges, GenerationOptions
from evalgpt.studies.verify.verification import VerificationChanges, VerificationOptions

PAIRS = [
    (Options, Changes),
    (ComparisonOptions, ComparisonChanges),
    (GenerationOptions, GenerationChanges),
    (VerificationOptions, VerificationChanges),
]
FUNCTIONS = [evalgpt.evaluate, evalgpt.compare, evalgpt.generate, evalgpt.verify]


@pytest.mark.parametrize(("options", "changes"), PAIRS, ids=lambda kind: kind.__name__)
def test_the_keywords_are_the_fields(options, changes):
    assert get_type_hints(options) == get_type_hints(changes)
    assert list(get_type_hints(changes)) == [field.name for field in fields(options)]
    assert changes.__total__ is False


def test_keywords_replace_fields_of_the_options():
    both = Options(tokens=False, batch_tokens=64)
    changed = evalgpt.evaluate(BytesModel(), Texts("Every effort moves you."), None, both, tokens=True)
    assert (changed.batch_tokens, changed.rows[0].tokenized is None) == (64, False)
    assert evalgpt.evaluate(BytesModel(), Texts("Every effort moves you."), None, both).rows[0].tokenized is None


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_an_unknown_keyword_names_those_accepted(function):
    with pytest.raises(TypeError, match=r"'devise'.*accepted: .*device"):
        function("no-such-model", "text", devise="cpu")


@pytest.mark.parametrize("options", [{}, object, ComparisonOptions(), GenerationOptions()], ids=str)
def test_options_of_another_type_are_refused(options):
    with pytest.raises(TypeError, match="Options"):
        evalgpt.evaluate("no-such-model", "pairs", None, options)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": "5%"}, "precision must be a number.* not str '5%'"),
        ({"precision": True}, "precision must be a number.* not bool True"),
        ({"batch_tokens": 1.5}, "batch_tokens must be a whole number or None, not float 1.5"),
        ({"seed": "1"}, "seed must be a whole number, not str '1'"),
        ({"tokens": "no"}, "tokens must be True or False or None, not str 'no'"),
        ({"device": 0}, "device must be a text or None, not int 0"),
        ({"cache": "folder"}, "cache must be of type ScoreCache or None"),
        ({"progress": 1}, "progress must be a function or None"),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_named_with_what_is_accepted(changes, says):
    with pytest.raises(UsageError, match=says):
        evalgpt.evaluate("no-such-model", "pairs", **changes)
    with pytest.raises(UsageError, match=says):
        evalgpt.evaluate("no-such-model", "pairs", options=Options(**changes))


def test_numbers_of_numpy_are_numbers():
    changed = evalgpt.evaluate(
        BytesModel(), Texts("Every effort moves you."), batch_tokens=np.int64(64), precision=np.float32(0.5)
    )
    assert changed.batch_tokens == 64


def test_a_context_among_the_options_is_told_where_it_goes():
    with pytest.raises(TypeError, match="'exact:context=10'"):
        evalgpt.evaluate("no-such-model", "pairs", context=10)


def test_a_torch_module_is_told_how_to_be_wrapped():
    torch = pytest.importorskip("torch")
    with pytest.raises(UsageError, match=r"TorchModel.*docs/plugins\.md"):
        evalgpt.evaluate(torch.nn.Linear(2, 2), "pairs")
    with pytest.raises(UsageError, match=r"not int 5$"):
        evalgpt.evaluate(5, "pairs")
