"""The vocabulary walk against full logits in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgpt import Detail
from evalgpt.adapters.tiled import scores_from_logits, tiled_scores

EVERYTHING = Detail(rank=True, entropy=True, top=5)


def draw(rows, width, vocabulary, scale=1.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), targets


def reference(hidden, weight, targets):
    """Full logits, float64."""
    return scores_from_logits(hidden.double() @ weight.double().T, targets, EVERYTHING)


@settings(deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 48),
    vocabulary=st.integers(1, 300),
    tile=st.integers(1, 320),
    scale=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_tiles_give_the_losses_of_full_logits(rows, width, vocabulary, tile, scale, seed):
    hidden, weight, targets = draw(rows, width, vocabulary, scale, seed)
    ours = tiled_scores(hidden, weight, targets, EVERYTHING, tile)
    exact = reference(hidden, weight, targets)
    torch.testing.assert_close(ours.nll.double(), exact.nll, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(ours.entropy.double(), exact.entropy, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.top_logprobs.double(), exact.top_logprobs, atol=2e-5, rtol=1e-5)


def test_a_gpt2_sized_head_stays_within_1e_5_of_float64():
    hidden, weight, targets = draw(1100, 768, 50257, scale=0.02)
    worst = (tiled_scores(hidden, weight, targets).nll.double() - reference(hidden, weight, targets).nll).abs().max()
    assert worst < 1e-5


def test_large_logits_are_no_further_from_float64_than_full_logits_are():
    hidden, weight, targets = draw(256, 576, 49152, scale=2.0)
    exact = reference(hidden, weight, targets).nll
    ours = (tiled_scores(hidden, weight, targets).nll.double() - exact).abs()
    full = (torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none").double() - exact).abs()
    assert ours.max() <= full.max()
    assert ours.mean() <= full.mean()


def test_ranks_and_top_tokens_are_those_of_the_logits():
    hidden, weight, targets = draw(300, 32, 1000, dtype=torch.float64)
    targets[:50] = (hidden[:50] @ weight.T).argmax(1)
    ours = tiled_scores(hidden, weight, targets, EVERYTHING, tile=128)
    exact = reference(hidden, weight, targets)
    assert torch.equal(ours.rank, exact.rank)
    assert (ours.rank[:50] == 0).all()
    assert torch.equal(ours.top_ids, exact.top_ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    hidden, weight, targets = draw(64, 64, 5000, scale=0.1, dtype=dtype)
    ours = tiled_scores(hidden, weight, targets)
    assert ours.nll.dtype == torch.float32
    # The logits are rounded to the inputs' dtype, of which 8 (bfloat16) or 11 bits count; their sums are not.
    torch.testing.assert_close(ours.nll.double(), reference(hidden, weight, targets).nll, atol=2e-2, rtol=0)


def test_extreme_logits_neither_overflow_nor_vanish():
    weight = torch.eye(4)
    hidden = torch.tensor([[1e4, 0.0, 0.0, 0.0], [-1e4, -1e4, -1e4, -1e4]])
    nll = tiled_scores(hidden, weight, torch.tensor([1, 2]), tile=2).nll
    torch.testing.assert_close(nll, torch.tensor([1e4, 4.0]).log() * torch.tensor([0.0, 1.0]) + torch.tensor([1e4, 0]))


def test_a_masked_vocabulary_has_finite_entropy():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    scores = scores_from_logits(logits, torch.tensor([0]), EVERYTHING)
    torch.testing.assert_close(scores.entropy, torch.tensor([2.0]).log())
