"""The GPT from scratch: the course's names, the course's numbers, the plain formula of attention."""

import math

import pytest
import torch
from torch.nn import functional as F

import evalgpt
from evalgpt import Detail, Window
from evalgpt.adapters.base import TorchModel, fingerprint
from evalgpt.adapters.gpt.model import GPTConfig, GPTModel
from evalgpt.adapters.scratch import PRESETS

pytestmark = pytest.mark.numeric

SMALL = GPTConfig(vocab_size=211, context_length=24, emb_dim=32, n_heads=4, n_layers=3, qkv_bias=True)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return GPTModel(SMALL).eval()


def test_state_dict_names_are_the_courses():
    block = [
        *(f"att.{name}.{kind}" for name in ("W_query", "W_key", "W_value", "out_proj") for kind in ("weight", "bias")),
        *(f"ff.layers.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
        *(f"norm{i}.{kind}" for i in (1, 2) for kind in ("scale", "shift")),
    ]
    expected = {
        "tok_emb.weight",
        "pos_emb.weight",
        "final_norm.scale",
        "final_norm.shift",
        "out_head.weight",
        *(f"trf_blocks.{layer}.{name}" for layer in range(3) for name in block),
    }
    assert set(GPTModel(SMALL).state_dict()) == expected


def plain_forward(state, config, ids):
    """The model written out as formulas, in float64, with an explicit causal mask and softmax."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)
        return x * state[f"{name}.scale"] + state[f"{name}.shift"]

    def linear(x, name):
        bias = state.get(f"{name}.bias")
        return x @ state[f"{name}.weight"].T + (0 if bias is None else bias)

    def gelu(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    length = len(ids)
    x = state["tok_emb.weight"][ids] + state["pos_emb.weight"][:length]
    size = config.emb_dim // config.n_heads
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    for layer in range(config.n_layers):
        p = f"trf_blocks.{layer}"
        h = norm(x, f"{p}.norm1")
        q, k, v = (linear(h, f"{p}.att.W_{name}") for name in ("query", "key", "value"))
        heads = []
        for at in range(0, config.emb_dim, size):
            part = slice(at, at + size)
            attention = (q[:, part] @ k[:, part].T / math.sqrt(size)).masked_fill(future, -torch.inf).softmax(-1)
            heads.append(attention @ v[:, part])
        x = x + linear(torch.cat(heads, -1), f"{p}.att.out_proj")
        h = norm(x, f"{p}.norm2")
        x = x + linear(gelu(linear(h, f"{p}.ff.layers.0")), f"{p}.ff.layers.2")
    return linear(norm(x, "final_norm"), "out_head")


@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_the_plain_formula(bias):
    config = GPTConfig(vocab_size=97, context_length=20, emb_dim=24, n_heads=3, n_layers=2, qkv_bias=bias)
    torch.manual_seed(1)
    model = GPTModel(config).eval()
    ids = torch.randint(97, (20,))
    with torch.inference_mode():
        ours = model(ids[None])[0]
    torch.testing.assert_close(ours.double(), plain_forward(model.state_dict(), config, ids), atol=1e-5, rtol=1e-5)


class Tiled(TorchModel):
    """What a torch author writes to have the logits never held."""

    def __init__(self, module):
        self.module, self.name, self.fingerprint = module, "tiled", fingerprint(module.state_dict().items())
        self.context_length, self.vocab_size = module.config.context_length, module.config.vocab_size

    def encode(self, text):
        raise NotImplementedError

    def decode(self, ids):
        raise NotImplementedError

    def hidden(self, ids):
        return self.module.hidden(ids)

    def unembedding(self):
        return self.module.out_head.weight


class Plain(Tiled):
    """What a torch author writes who has only logits."""

    hidden = TorchModel.hidden

    def logits(self, ids):
        return self.module(ids)


def random_windows(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    windows = []
    for _ in range(count):
        size = int(torch.randint(2, SMALL.context_length + 2, (1,), generator=generator))
        ids = torch.randint(SMALL.vocab_size, (size,), generator=generator).tolist()
        windows.append(Window(ids, int(torch.randint(1, size, (1,), generator=generator))))
    return windows


@pytest.mark.parametrize("adapter", [Tiled, Plain])
def test_both_ways_to_write_an_adapter_agree_with_float64(small, adapter):
    windows = random_windows(20)
    scores = adapter(small).score(windows, Detail(rank=True, entropy=True, top=3))
    for window, score in zip(windows, scores, strict=True):
        logits = plain_forward(small.state_dict(), SMALL, torch.tensor(window.ids[:-1]))[window.start - 1 :]
        targets = torch.tensor(window.ids[window.start :])
        expected = F.cross_entropy(logits, targets, reduction="none")
        torch.testing.assert_close(torch.from_numpy(score.nll).double(), expected, atol=1e-5, rtol=0)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(torch.from_numpy(score.entropy).double(), entropy, atol=1e-5, rtol=0)
        assert score.top_ids[:, 0].tolist() == logits.argmax(-1).tolist()
        assert score.rank.tolist() == (logits > logits.gather(1, targets[:, None])).sum(1).tolist()


@pytest.mark.parametrize("adapter", [Tiled, Plain])
def test_scores_do_not_depend_on_the_batch(small, adapter):
    model = adapter(small)
    windows = random_windows(12, seed=3)
    together = model.score(windows)
    for window, score in zip(windows, together, strict=True):
        (alone,) = model.score([window])
        torch.testing.assert_close(torch.from_numpy(alone.nll), torch.from_numpy(score.nll), atol=2e-6, rtol=0)
        assert alone.rank is None


def test_the_fingerprint_changes_with_one_weight_and_with_the_heads(small):
    before = Tiled(small).fingerprint
    assert Tiled(small).fingerprint == before
    other = GPTModel(SMALL)
    other.load_state_dict(small.state_dict())
    assert Tiled(other).fingerprint == before
    with torch.no_grad():
        other.trf_blocks[1].att.W_key.weight[0, 0] += 1e-6
    assert Tiled(other).fingerprint != before
    assert fingerprint(small.state_dict().items(), "heads=1") != fingerprint(small.state_dict().items(), "heads=2")


@pytest.fixture(scope="module")
def scratch():
    return evalgpt.load_plugins().model("scratch", device="cpu")


def test_the_lectures_pairs_give_the_lectures_loss(scratch):
    evaluation = evalgpt.evaluate(scratch, "pairs")
    assert evaluation.metrics.scores == 6
    assert evaluation.metrics.loss == pytest.approx(10.7940, abs=1e-4)
    assert evaluation.metrics.perplexity == pytest.approx(48725.82, abs=0.5)
    assert [row.tokenized.ids for row in evaluation.rows] == [[16833, 3626, 6100, 345], [40, 1107, 588, 11311]]


def test_the_lectures_target_probabilities(scratch):
    rows = evalgpt.evaluate(scratch, "pairs").rows
    probabilities = [math.exp(-nll) for row in rows for nll in row.tokenized.nll]
    published = [7.4541e-05, 3.1061e-05, 1.1563e-05, 1.0337e-05, 5.6776e-05, 4.7559e-06]
    assert probabilities == pytest.approx(published, rel=1e-4)


@pytest.mark.slow_model
def test_the_verdict_gives_the_courses_losses(scratch, verdict):
    evaluation = evalgpt.evaluate(scratch, "verdict")
    assert evaluation.protocol.name == "book"
    assert evaluation.peer["train_loss"] == pytest.approx(10.98758, abs=1e-4)
    assert evaluation.peer["validation_loss"] == pytest.approx(10.98111, abs=1e-4)
    assert {name: split.scores for name, split in evaluation.splits.items()} == {"train": 4608, "validation": 512}
    ledger = evaluation.ledger
    assert (ledger.tokens, ledger.scored, ledger.head, ledger.inside, ledger.tail) == (5146, 5120, 2, 0, 24)


def test_the_verdict_exactly_accounts_for_every_token(verdict):
    small = evalgpt.load_plugins().model("scratch:emb_dim=8,n_heads=1,n_layers=1", device="cpu")
    evaluation = evalgpt.evaluate(small, "verdict", "exact:context=256,stride=256")
    assert (evaluation.ledger.tokens, evaluation.ledger.scored) == (5145, 5145)
    assert evaluation.metrics.bytes == 20479
    without = evalgpt.evaluate(small, "verdict", "exact:context=256,stride=256,prefix=none")
    assert (without.ledger.scored, without.ledger.head) == (5144, 1)


def test_building_scratch_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evalgpt.load_plugins().model("scratch:n_layers=1,emb_dim=8,n_heads=2,vocab_size=50257", device="cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_the_seed_and_the_scheme_of_initialisation(scratch):
    torch.manual_seed(123)
    state = GPTModel(GPTConfig()).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in scratch.module.state_dict().items())


@pytest.mark.parametrize(
    ("preset", "parameters"), [("124M", 124439808), ("355M", 354823168), ("774M", 774030080), ("1558M", 1557611200)]
)
def test_presets_are_gpt2s_four_sizes(preset, parameters):
    """GPT-2's published counts, which have 1024 positions, biases, and one matrix for embedding and head."""
    with torch.device("meta"):
        module = GPTModel(GPTConfig(**PRESETS[preset], context_length=1024, qkv_bias=True))
    counted = {name: p.numel() for name, p in module.named_parameters() if name != "out_head.weight"}
    assert sum(counted.values()) == parameters
