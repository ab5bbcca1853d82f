"""Models whose position encodings depend on the length of the text: no loss depends on its batch."""

import copy
from types import SimpleNamespace

import pytest
import torch

from evalgpt import Window, evaluate
from evalgpt.adapters.base import TorchModel
from evalgpt.scoring.batching import AUTO, BatchSize, Scorer

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

from support.hf_models import SIZE, build, byte_level, save  # noqa: E402

from evalgpt.adapters.huggingface.rope import depends_on_length, rope_types  # noqa: E402

pytestmark = [pytest.mark.numeric, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

ORIGINAL = 32
HALF = 4  # frequencies of a head of 8
SCALED = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * HALF,
        "long_factor": [4.0, 6.0, 9.0, 14.0],
        "original_max_position_embeddings": ORIGINAL,
        "factor": 4.0,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
LENGTHS = (90, 11, 33, 120, 33, 20, 64, 5, 120, 31, 32)


def save_scaled(folder, kind):
    # Dynamic NTK scales beyond max_position_embeddings itself: context_length=128 asks for that.
    longest = ORIGINAL if kind == "dynamic" else 4 * ORIGINAL
    parameters = SCALED[kind]
    save(folder, "Llama", {**SIZE, "max_position_embeddings": longest, "rope_parameters": parameters})
    return build(folder, context_length=128)


def windows_of(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(3)
    return [Window(torch.randint(2, 300, (n + 1,), generator=generator).tolist(), 1) for n in lengths]


@torch.inference_mode()
def alone_in_float64(model, window):
    """The losses of one window by the full logits of ``model``, in a copy of it that has seen no other."""
    logits = copy.deepcopy(model)(torch.tensor([window.ids[:-1]]), use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(window.ids[1:]), reduction="none")


@pytest.fixture(scope="module", params=SCALED)
def scaled(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = save_scaled(folder, request.param)
    windows = windows_of()
    untouched = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    return model, windows, [alone_in_float64(untouched, window) for window in windows]


@pytest.mark.parametrize("size", [1, 7, 64, 4096, AUTO])
def test_losses_do_not_depend_on_the_batch_or_on_earlier_calls(scaled, size):
    model, windows, expected = scaled
    scorer = Scorer(model, BatchSize.of(model, size))
    for order in (windows, windows[::-1]):  # a long window before a short one, and the other way round
        for scores, right in zip(scorer.score(order), expected if order is windows else expected[::-1], strict=True):
            torch.testing.assert_close(torch.from_numpy(scores.nll).double(), right, atol=1e-5, rtol=0)


def test_the_adapter_itself_keeps_lengths_apart(scaled):
    model, windows, expected = scaled
    for scores, right in zip(model.score(windows), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(scores.nll).double(), right, atol=1e-5, rtol=0)
    assert model.equal_lengths
    assert not model.shares_prefixes
    kl = model.divergence(model, windows)
    assert max(abs(part).max() for part, _ in kl) < 1e-6


def test_the_length_matters_to_these_models(scaled):
    """Else the tests above could not fail."""
    model, windows, expected = scaled
    model.equal_lengths = False
    try:
        padded = model.score(windows)
    finally:
        model.equal_lengths = True
    gaps = [float(abs(torch.from_numpy(s.nll).double() - e).max()) for s, e in zip(padded, expected, strict=True)]
    assert max(gaps) > 1e-2


def test_what_earlier_versions_kept_is_not_recalled(scaled):
    model, *_ = scaled
    assert model.cache_id.endswith("equal lengths")


def test_kinds_that_are_not_known_are_taken_to_depend_on_the_length():
    def config(**parameters):
        return transformers.LlamaConfig(**SIZE, rope_parameters={"rope_theta": 1e4, **parameters})

    assert not depends_on_length(config(rope_type="default"))
    assert not depends_on_length(config(rope_type="linear", factor=2.0))
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    assert not depends_on_length(config(rope_type="llama3", **llama3))
    assert depends_on_length(config(**SCALED["dynamic"]))

    kinds = {"full_attention": {"rope_type": "default"}, "local": {"rope_type": "of-next-year"}}
    later = SimpleNamespace(rope_parameters=kinds)
    assert rope_types(later) == {"default", "of-next-year"}
    assert depends_on_length(later)
    assert not depends_on_length(transformers.GPT2Config())


def test_texts_of_one_model_give_one_number_whatever_the_batch(tmp_path):
    save_scaled(tmp_path / "model", "longrope")
    lines = ["every effort moves you " * n for n in (3, 11, 1, 17)]
    (tmp_path / "t.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    losses = {
        evaluate(build(tmp_path / "model"), f"text:{tmp_path / 't.jsonl'}", batch_tokens=size).metrics.loss
        for size in (1, 64, 4096)
    }
    assert max(losses) - min(losses) < 1e-6


# eval mode


class Forgetful(TorchModel):
    """A model whose author forgot eval(): dropout, in whatever place it is held."""

    name = fingerprint = "forgetful"
    context_length, vocab_size = 16, 300

    def __init__(self, hold):
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(300, 8)
        self.embedding.weight.requires_grad_(False)
        self.dropout = torch.nn.Dropout(0.5)
        self.held = hold(self.dropout)
        del self.dropout

    def encode(self, text):
        return byte_level().encode(text)

    def decode(self, ids):
        return str(ids)

    def part(self):
        held = self.held
        while not isinstance(held, torch.nn.Module):
            held = next(
                iter(held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held.inner])
            )
        return held

    def logits(self, ids):
        return self.part()(self.embedding(ids)) @ self.embedding.weight.T


class Box:
    def __init__(self, inner):
        self.inner = inner


@pytest.mark.parametrize(
    "hold",
    [lambda m: m, lambda m: [m], lambda m: {"m": m}, Box, lambda m: Box([m]), lambda m: torch.nn.Sequential(m)],
    ids=["itself", "list", "mapping", "object", "list in an object", "module"],
)
def test_modules_are_in_eval_mode_for_the_time_of_a_call(hold):
    model = Forgetful(hold)
    assert model.part().training
    windows = windows_of((9,))
    first, second = (model.score(windows)[0].nll for _ in range(2))
    assert (first == second).all()
    assert (model.next_logits([3, 4]) == model.next_logits([3, 4])).all()
    assert model.part().training  # as its author left it
