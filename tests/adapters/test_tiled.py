"""The vocabulary walk against full logits in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgpt import Detail
from evalgpt.adapters.kernels.tiled import (
    ROWS,
    Head,
    divergence_of_logits,
    scores_from_logits,
    tiled_divergence,
    tiled_scores,
)

pytestmark = pytest.mark.numeric

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
    ours = tiled_scores(hidden, Head(weight), targets, EVERYTHING, tile)
    exact = reference(hidden, weight, targets)
    torch.testing.assert_close(ours.nll.double(), exact.nll, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(ours.entropy.double(), exact.entropy, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.top_logprobs.double(), exact.top_logprobs, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_gpt2_sized_head_stays_within_1e_5_of_float64():
    hidden, weight, targets = draw(200, 768, 50257, scale=0.02)
    worst = (
        (tiled_scores(hidden, Head(weight), targets).nll.double() - reference(hidden, weight, targets).nll).abs().max()
    )
    assert worst < 1e-5


@pytest.mark.slow
def test_large_logits_are_no_further_from_float64_than_full_logits_are():
    hidden, weight, targets = draw(512, 576, 12288, scale=2.0)
    exact = reference(hidden, weight, targets).nll
    ours = (tiled_scores(hidden, Head(weight), targets).nll.double() - exact).abs()
    full = (torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none").double() - exact).abs()
    # Full logits round the target's logit too. How far each row is off depends on the processor's kernels, so the
    # difference of the means is compared with its own standard error.
    further = ours - full
    assert further.mean() <= 2 * further.std() / len(further) ** 0.5


def test_ranks_and_top_tokens_are_those_of_the_logits():
    hidden, weight, targets = draw(ROWS + 76, 32, 1000, dtype=torch.float64)
    targets[:50] = (hidden[:50] @ weight.T).argmax(1)
    ours = tiled_scores(hidden, Head(weight), targets, EVERYTHING, tile=128)
    exact = reference(hidden, weight, targets)
    assert torch.equal(ours.rank, exact.rank)
    assert (ours.rank[:50] == 0).all()
    assert torch.equal(ours.top_ids, exact.top_ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    hidden, weight, targets = draw(64, 64, 5000, scale=0.1, dtype=dtype)
    ours = tiled_scores(hidden, Head(weight), targets)
    assert ours.nll.dtype == torch.float32
    # The logits are rounded to the inputs' dtype, of which 8 (bfloat16) or 11 bits count; their sums are not.
    torch.testing.assert_close(ours.nll.double(), reference(hidden, weight, targets).nll, atol=2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sure_prediction_never_costs_less_than_nothing(dtype):
    hidden, weight, _ = draw(200, 64, 3000, scale=1.5, dtype=dtype)
    targets = (hidden.float() @ weight.float().T).argmax(1)
    ours = tiled_scores(hidden, Head(weight), targets, Detail(rank=True))
    assert ours.nll.min() >= -1e-5
    full = scores_from_logits(hidden @ weight.T, targets)
    torch.testing.assert_close(ours.nll, full.nll, atol=1e-4 if dtype == torch.float32 else 1e-2, rtol=0)


def test_extreme_logits_neither_overflow_nor_vanish():
    weight = torch.eye(4)
    hidden = torch.tensor([[1e4, 0.0, 0.0, 0.0], [-1e4, -1e4, -1e4, -1e4]])
    nll = tiled_scores(hidden, Head(weight), torch.tensor([1, 2]), tile=2).nll
    torch.testing.assert_close(nll, torch.tensor([1e4, 4.0]).log() * torch.tensor([0.0, 1.0]) + torch.tensor([1e4, 0]))


def test_a_masked_vocabulary_has_finite_entropy():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    scores = scores_from_logits(logits, torch.tensor([0]), EVERYTHING)
    torch.testing.assert_close(scores.entropy, torch.tensor([2.0]).log())


@settings(deadline=None)
@given(
    vocabulary=st.integers(2, 200),
    tile=st.integers(1, 220),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.0625, 3.0]),
    softcap=st.sampled_from([None, 5.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_biases_scales_and_soft_caps_are_honoured(vocabulary, tile, bias, scale, softcap, seed):
    hidden, weight, targets = draw(20, 24, vocabulary, seed=seed)
    head = Head(weight, torch.linspace(-2, 2, vocabulary) if bias else None, scale, softcap)
    logits = hidden.double() @ weight.double().T
    logits = scale * (logits + (head.bias.double() if bias else 0))
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    exact = scores_from_logits(logits, targets, EVERYTHING)
    ours = tiled_scores(hidden, head, targets, EVERYTHING, tile)
    torch.testing.assert_close(ours.nll.double(), exact.nll, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.entropy.double(), exact.entropy, atol=5e-5, rtol=1e-4)


@settings(deadline=None)
@given(vocabulary=st.integers(2, 200), tile=st.integers(1, 220), near=st.booleans(), seed=st.integers(0, 1000))
def test_the_divergence_is_that_of_full_logits_in_float64(vocabulary, tile, near, seed):
    hidden, weight, _ = draw(20, 24, vocabulary, scale=0.5, seed=seed)
    other, weight_b, _ = draw(20, 16, vocabulary, scale=0.5, seed=seed + 1)
    if near:
        other, weight_b = hidden + 0.01, weight
    kl, same = tiled_divergence((hidden, other), (Head(weight), Head(weight_b)), tile)
    p, q = ((h.double() @ w.double().T).log_softmax(1) for h, w in ((hidden, weight), (other, weight_b)))
    exact = (p.exp() * (p - q)).sum(1)
    torch.testing.assert_close(kl.double(), exact, atol=1e-5, rtol=1e-5)
    assert torch.equal(same, p.argmax(1) == q.argmax(1))


def test_a_model_does_not_diverge_from_itself():
    hidden, weight, _ = draw(1100, 64, 5000)
    kl, same = tiled_divergence((hidden, hidden), (Head(weight), Head(weight)))
    assert kl.abs().max() < 1e-6
    assert same.all()


def test_forbidden_tokens_add_nothing_to_a_divergence():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 3] = -torch.inf
    kl, same = divergence_of_logits(logits, logits)
    assert kl.abs().max() < 1e-12
    assert same.all()
    kl, _ = divergence_of_logits(logits, logits.clamp_min(-5))
    assert kl.isfinite().all()
