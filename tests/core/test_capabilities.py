"""What only some models can do, asked with isinstance."""

import pytest
from support.models import BytesModel, Writer

from evalgpt.adapters.base import TorchModel
from evalgpt.adapters.gpt.adapter import GPTAdapter
from evalgpt.core import CutsText, Diverges, GivesLogits, Reloads, SharesPrefixes, Trainable

ALL = {CutsText, Diverges, GivesLogits, Reloads, SharesPrefixes, Trainable}


class Cuts(BytesModel):
    def cut(self, text):
        return 0


class Silent(Writer):
    next_logits = None


class Shares(Cuts):
    shared_tokens = 64


class CutsNoMore(Shares):
    cut = None


@pytest.mark.parametrize(
    ("model", "can"),
    [
        (BytesModel, set()),
        (Writer, {GivesLogits}),
        (Silent, set()),
        (Cuts, {CutsText}),
        (Shares, {CutsText, SharesPrefixes}),
        (CutsNoMore, {SharesPrefixes}),
        (TorchModel, {GivesLogits, SharesPrefixes, Diverges}),
        (GPTAdapter, ALL),
    ],
)
def test_a_model_can_do_what_it_has_methods_for(model, can):
    assert {capability for capability in ALL if issubclass(model, capability)} == can


def test_no_capability_can_be_made_without_its_methods():
    for capability in ALL:
        with pytest.raises(TypeError, match="abstract"):
            capability()


def test_a_torch_model_shares_no_prefixes_unless_it_says_so():
    class Table(TorchModel):
        encode = decode = None

    Table.__abstractmethods__ = frozenset()
    model = Table()
    assert model.shared_tokens == 0
    model.shares_prefixes = True
    assert model.shared_tokens > 0
