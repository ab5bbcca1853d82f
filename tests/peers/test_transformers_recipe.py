"""The strided recipe of the transformers documentation against the protocol hf-strided."""

from itertools import pairwise

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from peers import parity, with_transformers_recipe


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return with_transformers_recipe.small(tmp_path_factory.mktemp("recipe"))


@pytest.mark.parametrize("average", ["v1", "v2", "v3"])
@pytest.mark.parametrize("stride", with_transformers_recipe.STRIDES)
@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_each_published_average_is_the_same(found, kind, stride, average):
    parity.check(found, with_transformers_recipe.name(kind, stride), f"perplexity {average}")


@pytest.mark.parametrize("stride", with_transformers_recipe.STRIDES)
def test_the_three_averages_are_three_numbers(found, stride):
    """So that none of them passes for another."""
    model = with_transformers_recipe.name("GPT2", stride)
    values = sorted(row.ours for row in found if row.model == model)
    assert len(values) == 3
    assert all(above - below > parity.TOLERANCE * below for below, above in pairwise(values))
