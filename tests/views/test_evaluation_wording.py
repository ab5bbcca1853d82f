"""Sentences about an evaluation, at the edges of their numbers."""

import pytest

from evalgpt.views.wording.evaluation import in_words


@pytest.mark.parametrize("perplexity", [256.0001, 256.4])
def test_a_perplexity_that_rounds_to_the_vocabulary_is_not_said_to_be_more(perplexity):
    assert "more than" not in in_words(perplexity, 256)
    assert "more than the 256" in in_words(257.0, 256)
