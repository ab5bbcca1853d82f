"""Training in Python: gradients, updates, the order of random draws, the plan, what is known by heart."""

import math

import pytest
import torch
from support.models import BytesModel
from support.training_runs import SMALL
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import evalgpt
from evalgpt.adapters.base import TorchModel
from evalgpt.adapters.gpt.model import GPTConfig, GPTModel
from evalgpt.adapters.gpt.training import TorchTrainer
from evalgpt.core import Optimisation, Window
from evalgpt.core.protocol import Piece
from evalgpt.protocols.exact import Exact
from evalgpt.scoring.engine import bind
from evalgpt.studies.training.data import learning_rate, read_data
from evalgpt.studies.training.log import Settings
from evalgpt.studies.training.loop import continuation
from evalgpt.studies.training.memorised import memorised
from evalgpt.views.terminal.curve import curve

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("one_thread")]

# gradients and updates


def trainer_of(how=None, *, seed=0, dtype=torch.float32, **fields):
    """A trainer of a tiny GPT, whose vocabulary is small enough to differentiate by hand."""
    torch.manual_seed(seed)
    fields = {"vocab_size": 23, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 2, **fields}
    module = GPTModel(GPTConfig(**fields)).eval().to(dtype)
    model = Tiny(module)
    return TorchTrainer(model, module, how or Optimisation(), fields)


class Tiny(TorchModel):
    """What a torch author writes: logits."""

    def __init__(self, module):
        self.module, self.name, self.fingerprint = module, "tiny", "tiny"
        self.context_length, self.vocab_size = module.config.context_length, module.config.vocab_size

    def encode(self, text):
        raise NotImplementedError

    def decode(self, ids):
        raise NotImplementedError

    def logits(self, ids):
        return self.module(ids)


def test_gradients_are_those_of_finite_differences():
    trainer = trainer_of(dtype=torch.float64, drop_rate=0.0, qkv_bias=True)
    rows = torch.randint(23, (3, 9), generator=torch.Generator().manual_seed(1))
    trainer._gradients([rows.tolist()])
    module = trainer.module

    def loss():
        with torch.no_grad():
            return float(F.cross_entropy(module(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()))

    generator = torch.Generator().manual_seed(2)
    for name, parameter in module.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter += 1e-6 * direction
            above = loss()
            parameter -= 2e-6 * direction
            below = loss()
            parameter += 1e-6 * direction
        slope = float((parameter.grad * direction).sum())
        assert slope == pytest.approx((above - below) / 2e-6, rel=1e-6, abs=1e-9), name


def rows_of(count, seed=1):
    return torch.randint(23, (count, 9), generator=torch.Generator().manual_seed(seed)).tolist()


def weights_after(trainer, batches, steps=3, rate=0.01):
    for _ in range(steps):
        trainer.step(batches, rate)
    return {name: p.detach().clone() for name, p in trainer.module.named_parameters()}


def test_an_update_is_adamws_written_out():
    trainer = trainer_of(Optimisation(weight_decay=0.3), dtype=torch.float64, drop_rate=0.0)
    batch = rows_of(4)
    before = {name: p.detach().clone() for name, p in trainer.module.named_parameters()}
    trainer._gradients([batch])
    gradients = {name: p.grad.clone() for name, p in trainer.module.named_parameters()}
    found = trainer.step([batch], 0.01)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert found.gradient_norm == pytest.approx(norm, rel=1e-12)
    for name, parameter in trainer.module.named_parameters():
        g = gradients[name]  # after one update the corrected moments are g and g squared
        expected = before[name] * (1 - 0.01 * 0.3) - 0.01 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(parameter.data, expected, atol=1e-12, rtol=0)


def test_two_batches_accumulated_are_one_of_both():
    rows = rows_of(4)
    together = weights_after(trainer_of(dtype=torch.float64, drop_rate=0.0), [rows])
    apart = weights_after(trainer_of(dtype=torch.float64, drop_rate=0.0), [rows[:2], rows[2:]])
    for name, weight in together.items():
        torch.testing.assert_close(apart[name], weight, atol=1e-9, rtol=0)


def test_clipping_changes_the_gradient_and_not_the_norm_that_is_told():
    free, clipped = trainer_of(drop_rate=0.0), trainer_of(Optimisation(clip=0.01), drop_rate=0.0)
    told = [trainer.step([rows_of(2)], 0.01).gradient_norm for trainer in (free, clipped)]
    assert told[0] == told[1] > 0.01
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in clipped.module.parameters()]))
    assert float(norm) == pytest.approx(0.01, rel=1e-4)


def test_dropout_is_in_training_alone():
    ids = torch.tensor(rows_of(2))[:, :-1]
    trainer = trainer_of(drop_rate=0.5)
    before = trainer.module(ids)
    losses = {trainer._gradients([rows_of(2)]) for _ in range(3)}
    assert len(losses) == 3, "dropout draws anew"
    assert not trainer.module.training
    assert torch.equal(trainer.module(ids), before)


def test_dropout_is_where_the_course_has_it(monkeypatch):
    """On the embeddings, the attention's weights, and both branches of each block before they are added."""
    seen = []
    for name in ("dropout", "scaled_dot_product_attention"):
        original = getattr(F, name)

        def spy(*args, original=original, name=name, **options):
            seen.append((name, options.get("dropout_p", args[1] if name == "dropout" else None)))
            return original(*args, **options)

        monkeypatch.setattr(F, name, spy)
    trainer_of(drop_rate=0.25)._gradients([rows_of(1)])
    block = [("scaled_dot_product_attention", 0.25), ("dropout", 0.25), ("dropout", 0.25)]
    assert seen == [("dropout", 0.25), *block, *block]


def test_no_weight_is_changed_by_a_gradient_that_is_not_finite():
    trainer = trainer_of()
    trainer.step([rows_of(2)], 0.01)
    with torch.no_grad():
        trainer.module.final_norm.scale[0] = torch.inf
    before = {name: p.detach().clone() for name, p in trainer.module.named_parameters()}
    assert not math.isfinite(trainer.step([rows_of(2)], 0.01).loss)
    assert all(torch.equal(p, before[name]) for name, p in trainer.module.named_parameters())


def test_windows_are_shuffled_as_torchs_loader_shuffles():
    trainer = trainer_of(Optimisation(seed=5))
    torch.manual_seed(5)
    loader = DataLoader(TensorDataset(torch.arange(11)), batch_size=1, shuffle=True)
    plain = DataLoader(TensorDataset(torch.arange(4)), batch_size=1)
    for _ in range(2):
        assert trainer.order(11) == [int(x) for (x,) in loader]
        assert trainer.order(4, shuffle=False) == [int(x) for (x,) in plain]


def test_the_callers_random_numbers_are_left_alone():
    trainer = trainer_of()
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    trainer.order(5)
    trainer.step([rows_of(2)], 0.01)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_restoring_goes_on_to_the_same_bits(tmp_path, dtype):
    kind = getattr(torch, dtype)
    whole, first, second = (trainer_of(dtype=kind, seed=s) for s in (0, 0, 7))
    path = str(tmp_path / "state.safetensors")
    for trainer in (whole, first):
        trainer.step([rows_of(2)], 0.01)
    first.save(path, {"a": "b"}, resumable=True)
    assert second.restore(path)["a"] == "b"
    assert whole.order(20) == second.order(20)
    after = [weights_after(trainer, [rows_of(2, seed=3)]) for trainer in (whole, second)]
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_float16_is_refused():
    with pytest.raises(evalgpt.UsageError, match="cannot be trained in float16"):
        trainer_of(dtype=torch.float16)


@pytest.mark.parametrize("seed", [None, 4])
def test_the_seed_goes_on_from_the_models_own_draws_unless_given(seed):
    model = evalgpt.load_plugins().model(SMALL, device="cpu")
    found = model.trainer(Optimisation(seed=seed)).order(20)
    torch.manual_seed(123)
    GPTModel(model.module.config)
    if seed is not None:
        torch.manual_seed(seed)
    assert found == [int(x) for (x,) in DataLoader(TensorDataset(torch.arange(20)), batch_size=1, shuffle=True)]


def test_fingerprint_and_scores_follow_the_weights(book_here):
    model = evalgpt.load_plugins().model(SMALL, device="cpu")
    before, loss = model.fingerprint, evalgpt.evaluate(model, "pairs").metrics.loss
    trainer = model.trainer(Optimisation())
    trainer.step([[list(range(100, 120))]], 0.05)
    assert model.fingerprint != before
    assert model.cache_id is None
    assert model.trained
    assert evalgpt.evaluate(model, "pairs").metrics.loss != loss
    trainer.save("now.safetensors", {}, resumable=False)
    loaded = evalgpt.load_plugins().model(model.weights_spec("now.safetensors"), device="cpu")
    assert loaded.fingerprint == model.fingerprint
    assert evalgpt.evaluate(loaded, "pairs").metrics.loss == evalgpt.evaluate(model, "pairs").metrics.loss


# the plan


class Text(evalgpt.Task):
    name = "text"

    def documents(self):
        yield evalgpt.Document("one", "Every effort moves you. " * 10)


class Halves(Exact):
    """Trains on the first half of a text, by windows one after the other, and validates with the second."""

    name = "halves"
    parts = "train", "validation"

    def pieces(self, text):
        middle = len(text) // 2
        return [Piece(self.parts[0], 0, middle), Piece(self.parts[1], middle, len(text))]

    def training_windows(self, tokens, split):
        for begin in range(0, len(tokens.ids) - 8, 8):
            yield Window(tokens.ids[begin : begin + 9], 1, begin)


class Thirds(Halves):
    parts = "train", "rest"


def test_a_protocol_says_what_is_trained_on():
    model = BytesModel()
    data = read_data(model, Text(), bind(Halves(context=8), model), 2)
    assert [len(data.train), len(data.validation)] == [14, 14]
    assert bytes(data.train[1].ids) == b"fort move"
    for protocol in (Exact(context=8), Thirds(context=8)):
        with pytest.raises(evalgpt.UsageError, match=f"protocol {protocol.name} does not say"):
            read_data(model, Text(), bind(protocol, model), 2)


def test_the_learning_rate_rises_and_falls():
    settings = Settings(model="", task="", warmup=4, decay="cosine", learning_rate=1.0, min_learning_rate=0.1)
    rates = [learning_rate(settings, k, 11) for k in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[7] == pytest.approx(0.55)
    assert rates[10] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(Settings(model="", task=""), 99, 5) == 4e-4


def test_a_continuation_is_the_likeliest_token_each_time():
    model = evalgpt.load_plugins().model("scratch:n_layers=1,emb_dim=16,n_heads=2,context_length=6", device="cpu")
    ids = list(model.encode("Every effort moves you").ids)
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model.module(torch.tensor([ids[-6:]]))[0, -1].argmax()))
    assert continuation(model, "Every effort moves you", 5) == model.decode(ids)


def test_what_is_known_by_heart_is_found():
    text = "ab" * 60 + "the quick brown fox" + "ab" * 60 + "é" * 30
    start = text.index("the quick")
    known = range(start, start + len("the quick brown fox"))
    data = text.encode()
    losses = {i: 0.01 if i in known else 3.0 for i in range(len(data))}
    places = {}
    model = BytesModel(lambda context, target: places.get((context, target), 3.0), context_length=40)
    protocol = evalgpt.load_plugins().protocol("book:context=40")
    cut = len(text[: int(0.9 * len(text))].encode())
    for begin in range(0, cut - 40, 40):
        for i in range(begin + 1, begin + 41):
            places[tuple(data[begin:i]), data[i]] = losses[i]
    evaluation = evalgpt.evaluate(model, Texts(text), protocol)
    found = memorised(model, evaluation, 7, 0.9)
    (span, *_) = found.spans["train"]
    assert (span.text, span.tokens, span.first) == ("the quick brown fox", len(known), start)
    assert span.loss == pytest.approx(0.01)
    assert found.spans["validation"] == []
    scored = evaluation.splits["train"].scores
    assert found.share == {"train": pytest.approx(len(known) / scored), "validation": 0.0}


class Texts(evalgpt.Task):
    def __init__(self, text):
        self.name, self.text = "texts", text

    def documents(self):
        yield evalgpt.Document("one", self.text)


def test_a_curve_has_its_marks_where_the_values_are():
    lines = curve([("o", [(0, 4.0), (10, 2.0)]), ("x", [(5, 3.0)])], 10, 30, 5)
    assert len(lines) == 6
    assert all(len(line) <= 30 for line in lines)
    assert lines[0] == "4.00 ┤o"
    assert lines[2].split() == ["3.00", "┤", "x"]
    assert lines[4].split() == ["2.00", "┤", "o"]
    assert curve([("o", [])], 10, 30, 5) == []
    assert len(curve([("o", [(0, 1.0)])], 0, 30, 5)) == 6
