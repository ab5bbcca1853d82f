"""minicons against the protocol exact, with and without a prefix."""

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from peers import parity, with_minicons

parity.skip_without(*with_minicons.NEEDS)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return with_minicons.small(tmp_path_factory.mktemp("minicons"))


@pytest.mark.parametrize("quantity", ["sequence_score, worst sentence", "token_score, worst token"])
@pytest.mark.parametrize(
    "model", ["random Llama", "random Llama, bos_token=True", "random Llama whose tokenizer adds BOS"]
)
def test_sentences_and_tokens_have_the_same_scores(found, model, quantity):
    parity.check(found, model, quantity)
