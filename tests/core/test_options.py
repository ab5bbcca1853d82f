"""Options as a dataclass and as keywords: the same names and types, and no others."""

from dataclasses import fields
from typing import get_type_hints

import pytest
from support.models import BytesModel
from support.pages import Texts

import evalgpt
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
