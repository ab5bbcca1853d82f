"""What ``logits``, ``hidden`` and ``unembedding`` of a torch model may return: other shapes end in one line."""

from types import SimpleNamespace

import pytest
import torch
from support.models import BytesModel

from evalgpt.adapters.base import TorchModel
from evalgpt.core import EvaluationError, Window
from evalgpt.testing import Subject, run_check

WINDOWS = [Window(range(8), 1), Window(range(5, 9), 1)]


class Table(TorchModel):
    name, fingerprint, context_length, vocab_size = "table", "table", 16, 256
    encode, decode = BytesModel.encode, BytesModel.decode

    def __init__(self, change):
        self.change = change
        self.table = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))


class OfLogits(Table):
    def logits(self, ids):
        return self.change(self.table[ids])


class OfStates(Table):
    def hidden(self, ids):
        return self.change(self.table[ids])

    def unembedding(self):
        return self.table


class OfMatrix(OfStates):
    def hidden(self, ids):
        return self.table[ids]

    def unembedding(self):
        return self.change(self.table)


WRONG = {
    "a tuple": (lambda x: (x, None), "a tuple"),
    "an output object": (lambda x: SimpleNamespace(logits=x), "a SimpleNamespace"),
    "None": (lambda x: None, "None"),
    "an array": (lambda x: x.numpy(), "a ndarray"),
    "whole numbers": (lambda x: x.long(), "a tensor of int64 [2, 7, 256]"),
    "too few dimensions": (lambda x: x[0], "a tensor [7, 256]"),
    "a token too few": (lambda x: x[:, 1:], "a tensor [2, 6, 256]"),
    "a text too few": (lambda x: x[:1], "a tensor [1, 7, 256]"),
}


@pytest.mark.parametrize("model", [OfLogits, OfStates])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_tensor_of_the_right_shape_is_named_with_what_is_wanted(model, wrong):
    change, described = WRONG[wrong]
    with pytest.raises(EvaluationError) as caught:
        model(change).score(WINDOWS)
    message = str(caught.value)
    assert f"() returned {described}; " in message
    assert " = [2, 7, 256] is wanted" in message or " = [2, 7, width] is wanted" in message
    if wrong != "a text too few":  # these logits are of one text
        with pytest.raises(EvaluationError, match="is wanted"):
            model(change).next_logits(range(7), 2)


@pytest.mark.parametrize("size", [200, 300])
@pytest.mark.parametrize("model", [OfLogits, OfMatrix])
def test_another_number_of_logits_than_vocab_size_is_refused(model, size):
    table = model(lambda x: x)
    table.vocab_size = size
    with pytest.raises(EvaluationError, match="256.*" + str(size)):
        table.score(WINDOWS)
    with pytest.raises(EvaluationError, match="256.*" + str(size)):
        table.divergence(table, WINDOWS)


def test_a_matrix_of_another_width_than_the_states_is_refused():
    with pytest.raises(EvaluationError, match=r"unembedding\(\) returned a tensor \[256, 255\]; .* = \[256, 256\]"):
        OfMatrix(lambda x: x[:, 1:]).score(WINDOWS)


@pytest.mark.parametrize("model", [OfLogits, OfStates, OfMatrix])
def test_the_right_shapes_are_scored(model):
    assert [len(scores.nll) for scores in model(lambda x: x).score(WINDOWS)] == [7, 3]


def test_the_kit_says_what_the_adapter_raised_and_no_more():
    outcome = run_check(Subject(lambda: OfLogits(lambda x: (x, None))), "repeatable")
    assert outcome.status == "failed"
    assert outcome.message.startswith("the adapter raised logits() returned a tuple; ")
    assert "differ" not in outcome.message
