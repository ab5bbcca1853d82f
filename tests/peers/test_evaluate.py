"""Hugging Face evaluate's perplexity against exp of each text's loss."""

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from peers import parity, with_evaluate

parity.skip_without(*with_evaluate.NEEDS)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return with_evaluate.small(tmp_path_factory.mktemp("evaluate"))


@pytest.mark.parametrize("quantity", ["mean_perplexity", "perplexities, worst text"])
@pytest.mark.parametrize("start", [True, False])
def test_the_mean_of_the_texts_perplexities_is_the_same(found, start, quantity):
    parity.check(found, f"random Llama, add_start_token={start}", quantity)
