"""Training: gradients, the order of random draws, checkpoints that go on to the same bits, and what goes wrong."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import jsonschema
import msgspec
import pytest
import torch
from click.testing import CliRunner
from models import BytesModel
from safetensors import safe_open
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import evalgpt
from evalgpt.adapters.base import TorchModel
from evalgpt.adapters.gpt import GPTConfig, GPTModel
from evalgpt.adapters.training import TorchTrainer
from evalgpt.cli import cli
from evalgpt.core import Optimisation
from evalgpt.curve import curve
from evalgpt.memorised import memorised
from evalgpt.training import continuation
from evalgpt.training_data import learning_rate
from evalgpt.training_log import Settings, read_training

SMALL = "scratch:n_layers=1,emb_dim=16,n_heads=2,context_length=32"
COMMAND = Path(sys.executable).parent / "evalgpt"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with texts: one to train on, and one of a few words."""
    monkeypatch.chdir(tmp_path)
    story = (resources.files("evalgpt.tasks") / "story.txt").read_bytes().decode()
    Path("book.txt").write_text(story[:3600], encoding="utf-8")
    Path("short.txt").write_text("Every effort moves you. " * 12, encoding="utf-8")
    return tmp_path


def evalgpt_(*args):
    return CliRunner().invoke(cli, args, prog_name="evalgpt")


def train(*args, folder="run", text="book.txt"):
    return evalgpt_("train", "-m", SMALL, "-t", f"text:{text}", "-o", folder, "--sample", "", *args)


def succeeded(result):
    assert result.exit_code == 0, result.stderr
    return result


def error_line(result, code, *says):
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines)) == (code, 1), result.stderr
    assert lines[0].startswith("evalgpt: error: ")
    assert "(unexpected" not in lines[0]
    assert [part for part in says if part not in lines[0]] == [], lines[0]


def tensors_of(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def same_bits(one, other):
    """Weights, the optimiser's state, the random state and the place in the data."""
    (a, facts_a), (b, facts_b) = tensors_of(one), tensors_of(other)
    assert a.keys() == b.keys()
    assert facts_a == facts_b
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


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


def test_fingerprint_and_scores_follow_the_weights(here):
    model = evalgpt.load_plugins().model(SMALL, device="cpu")
    before, loss = model.fingerprint, evalgpt.evaluate(model, "pairs").metrics.loss
    trainer = model.trainer(Optimisation())
    trainer.step([[list(range(100, 120))]], 0.05)
    assert model.fingerprint != before
    assert model.cache_id is None
    assert model.trained
    assert evalgpt.evaluate(model, "pairs").metrics.loss != loss
    trainer.save("now.safetensors", {}, resumable=False)
    loaded = evalgpt.load_plugins().model("scratch:weights=now.safetensors", device="cpu")
    assert loaded.fingerprint == model.fingerprint
    assert evalgpt.evaluate(loaded, "pairs").metrics.loss == evalgpt.evaluate(model, "pairs").metrics.loss


# the plan


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


# the command


def test_a_run_leaves_a_log_that_fits_its_schema_and_weights_that_give_its_losses(here):
    result = succeeded(train("--epochs", "2", "--eval-iter", "2", "--learning-rate", "0.01"))
    data = json.loads(Path("run/training.json").read_text())
    schema = json.loads(evalgpt_("schema", "training").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)
    log = read_training(Path("run"))
    windows = log.windows["train"]
    assert log.total_updates == 2 * (windows // 2) == len(log.updates.loss)
    assert log.evaluations[-1].tokens_seen == 2 * (windows // 2) * 2 * 32
    assert {e.updates for e in log.evaluations} >= {0, 1, 6, 11, log.total_updates}
    assert log.evaluations[-1].train_loss < log.evaluations[0].train_loss
    assert log.best == msgspec.convert(data["best"], type(log.best))
    assert log.best.validation_loss == min(e.validation_loss for e in log.evaluations)
    assert f"validation loss {log.evaluations[-1].validation_loss:.3f}" in result.stdout
    for name, found in (
        ("best", next(e for e in log.evaluations if e.updates == log.best.updates)),
        ("last", log.evaluations[-1]),
    ):
        run = evalgpt.evaluate(f"scratch:weights=run/{name}.safetensors", "text:book.txt", "book")
        assert run.splits["train"].loss == found.train_loss
        assert run.splits["validation"].loss == found.validation_loss
        assert run.model.fingerprint == found.fingerprint
        assert run.model.config["n_heads"] == 2, "read from the file"


def test_the_initial_evaluation_is_that_of_the_model_untrained(here):
    succeeded(train("--steps", "1"))
    found = read_training(Path("run")).evaluations[0]
    run = evalgpt.evaluate(SMALL, "text:book.txt", "book")
    assert (found.updates, found.train_loss) == (0, run.splits["train"].loss)
    assert found.fingerprint == run.model.fingerprint


def test_a_checkpoint_says_its_own_configuration_and_refuses_another(here):
    succeeded(train("--steps", "1"))
    given = evalgpt_("run", "-m", "scratch:weights=run/best.safetensors,n_heads=4", "-t", "pairs")
    error_line(given, 2, "run/best.safetensors has n_heads=2, not 4")
    error_line(evalgpt_("run", "-m", "scratch:124M,weights=run/best.safetensors", "-t", "pairs"), 2, "emb_dim=16")


KILLER = """
import os, signal, sys
from evalgpt.adapters.training import TorchTrainer
from evalgpt.cli import main

when, count = sys.argv.pop(1), 0
write = TorchTrainer.save

def save(self, path, facts, *, resumable):
    global count
    count += resumable
    write(self, path, facts, resumable=resumable)
    if count == 3:
        data = open(path, "rb").read()
        open(path, "wb").write(data[: len(data) // 2])
        os.kill(os.getpid(), getattr(signal, when))

TorchTrainer.save = save
main()
"""

RUN = ["-m", SMALL, "-t", "text:book.txt", "--steps", "10", "--save-every", "3", "--sample", "", "-q"]


def process(*args, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*args], capture_output=True, text=True, timeout=120, env=environment, **options)


def test_a_run_that_was_killed_while_it_wrote_goes_on_to_the_same_bits(here):
    whole = process(COMMAND, "train", *RUN, "-o", "whole")
    assert whole.returncode == 0, whole.stderr
    killed = process(sys.executable, "-c", KILLER, "SIGKILL", "train", *RUN, "-o", "run")
    assert killed.returncode == -signal.SIGKILL
    assert len(list(Path("run").glob(".evalgpt-*"))) == 1, "half a file, which has no name of the run's"
    _, facts = tensors_of("run/last.safetensors")
    assert json.loads(facts["evalgpt.state"])["updates"] == 6
    resumed = process(COMMAND, "train", "--resume", "run", "-q")
    assert resumed.returncode == 0, resumed.stderr
    same_bits("whole/last.safetensors", "run/last.safetensors")
    same_bits("whole/best.safetensors", "run/best.safetensors")
    logs = [read_training(Path(name)) for name in ("whole", "run")]
    assert logs[0].updates.loss == logs[1].updates.loss
    assert [e.fingerprint for e in logs[0].evaluations] == [e.fingerprint for e in logs[1].evaluations]
    assert logs[0].memorised == logs[1].memorised
    assert list(Path("run").glob(".evalgpt-*")) == []


def test_a_run_that_was_killed_anywhere_goes_on_to_the_same_bits(here):
    running = subprocess.Popen(
        [COMMAND, "train", *RUN, "-o", "run"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not Path("run/last.safetensors").exists() and running.poll() is None:
        time.sleep(0.02)
    running.kill()
    assert running.wait() == -signal.SIGKILL, "killed before it was done"
    assert process(COMMAND, "train", "--resume", "run", "-q").returncode == 0
    assert process(COMMAND, "train", *RUN, "-o", "whole").returncode == 0
    same_bits("whole/last.safetensors", "run/last.safetensors")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(here):
    succeeded(train("--steps", "3"))
    before = tensors_of("run/last.safetensors")
    Path("run/last.safetensors").unlink()
    succeeded(evalgpt_("train", "--resume", "run"))
    after = tensors_of("run/last.safetensors")
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert len(read_training(Path("run")).updates.loss) == 3


def test_ctrl_c_stops_after_the_update_with_a_checkpoint(here):
    succeeded(train("--steps", "9", folder="whole"))
    script = KILLER.replace("if count == 3", "if self.model.trained and not os.path.exists('asked')")
    script = script.replace('open(path, "wb").write(data[: len(data) // 2])', "open('asked', 'w').close()")
    stopped = process(
        sys.executable, "-c", script, "SIGINT", "train", *RUN[:4], "--steps", "9", "--sample", "", "-q", "-o", "run"
    )
    assert stopped.returncode == 1
    assert "Traceback" not in stopped.stderr
    assert "stopped after 1 of 9 updates; go on with evalgpt train --resume run" in stopped.stderr
    succeeded(evalgpt_("train", "--resume", "run", "-q"))
    same_bits("whole/last.safetensors", "run/last.safetensors")


def test_resuming_a_run_that_is_whole_changes_nothing(here):
    first = succeeded(train("--steps", "4", "-q"))
    before = Path("run/training.json").read_bytes(), Path("run/last.safetensors").stat().st_mtime_ns
    assert succeeded(evalgpt_("train", "--resume", "run", "-q")).stdout == first.stdout
    after = Path("run/training.json").read_bytes(), Path("run/last.safetensors").stat().st_mtime_ns
    assert json.loads(before[0]) == json.loads(after[0])
    assert before[1] == after[1]


def test_a_learning_rate_that_diverges_is_one_line_and_keeps_the_checkpoint(here):
    result = train("--steps", "8", "--learning-rate", "1e37", "--save-every", "1", "-q")
    error_line(result, 1, "run/best.safetensors has the weights after 0 updates")
    weights, _ = tensors_of("run/best.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert len(read_training(Path("run")).evaluations) == 1


def test_a_loss_that_diverges_between_evaluations_names_the_last_checkpoint(here, monkeypatch):
    original, count = TorchTrainer.step, 0

    def step(self, batches, rate):
        nonlocal count
        count += 1
        if count == 5:
            with torch.no_grad():
                self.module.final_norm.scale.fill_(torch.nan)
        return original(self, batches, rate)

    monkeypatch.setattr(TorchTrainer, "step", step)
    result = train("--steps", "20", "--save-every", "2", "-q")
    error_line(
        result,
        1,
        "training diverged at update 5 (its loss is not finite)",
        "run/last.safetensors has the weights after 4",
    )


@pytest.mark.parametrize("kind", ["last.safetensors", "best.safetensors"])
def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(here, kind):
    """Files may not grow beyond a limit: past the size of the weights, or of the optimiser's state with them."""
    assert process(COMMAND, "train", *RUN, "-o", "whole").returncode == 0
    best, last = (Path(f"whole/{name}.safetensors").stat().st_size for name in ("best", "last"))
    limit = (best + last) // 2 if kind == "last.safetensors" else best // 2

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = process(COMMAND, "train", *RUN, "-o", "run", preexec_fn=small)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1
    assert line.startswith(f"evalgpt: error: cannot write run/{kind}: ")
    assert "(unexpected" not in line
    kept = "run/best.safetensors has the weights" if kind == "last.safetensors" else "there is no checkpoint yet"
    assert kept in line
    assert [p.name for p in Path("run").glob(".evalgpt-*")] == []
    assert process(COMMAND, "train", "--resume", "run", "-q").returncode == 0
    same_bits("whole/last.safetensors", "run/last.safetensors")


def test_a_text_too_short_for_a_batch_is_one_line_and_no_folder(here):
    error_line(
        train("-q", text="short.txt"), 1, "the text is too short to train on", "windows of 32 tokens that it takes"
    )
    Path("two.txt").write_text(Path("book.txt").read_text(encoding="utf-8")[:200], encoding="utf-8")
    error_line(train("-q", "--batch", "1", text="two.txt"), 1, "the text is too short to train on")
    error_line(train("-q", "--batch", "500"), 1, "of the 500 windows of 32 tokens that it takes")
    small = ["train", "-m", f"{SMALL},vocab_size=50000", "-t", "text:book.txt", "-o", "run"]
    error_line(evalgpt_(*small, "--sample", " informants"), 1, "outside the vocabulary")
    assert not Path("run").exists()


def test_the_text_and_the_model_must_be_those_the_run_began_with(here):
    succeeded(train("--steps", "1"))
    text = Path("book.txt").read_text(encoding="utf-8")
    Path("book.txt").write_text(text + "!", encoding="utf-8")
    error_line(evalgpt_("train", "--resume", "run"), 1, "run cannot go on: the text has changed")
    Path("book.txt").write_text(text, encoding="utf-8")
    log = json.loads(Path("run/training.json").read_text())
    log["settings"]["model"] += ",seed=5"
    Path("run/training.json").write_text(json.dumps(log))
    error_line(evalgpt_("train", "--resume", "run"), 1, "the model it began with has changed")


BAD = [
    (["-m", SMALL, "-t", "pairs", "-o", "run"], 2, "protocol book cannot score a continuation"),
    (["-m", "scrath", "-t", "story", "-o", "run"], 2, "did you mean 'scratch'?"),
    (["-m", SMALL, "-t", "text:no.txt", "-o", "run"], 2, "there is no file or folder no.txt"),
    (["-m", SMALL, "-t", "story"], 2, "train needs -o, or --resume FOLDER"),
    (["-t", "story", "-o", "run"], 2, "train needs -m"),
    (["-m", SMALL, "-t", "story", "-o", "book.txt/run"], 2, "cannot make the folder book.txt/run"),
    (["-m", SMALL, "-t", "story", "-o", "run", "--steps", "2", "--epochs", "2"], 2, "--steps is instead of --epochs"),
    (["-m", SMALL, "-t", "story", "-o", "run", "--context", "64"], 2, "context 64 is out of range"),
    (["-m", SMALL, "-t", "story", "-o", "run", "--dtype", "float16"], 2, "cannot be trained in float16"),
    (["-m", SMALL, "-t", "story", "-o", "run", "--learning-rate", "0"], 2, "--learning-rate"),
    (["--resume", "nothere"], 2, "nothere holds no training run"),
    (["--resume", "run", "--steps", "3", "-o", "x"], 2, "leave out --steps, --output"),
]


@pytest.mark.parametrize(("args", "code", "says"), BAD, ids=[says for *_, says in BAD])
def test_bad_input_is_one_line(here, args, code, says):
    error_line(evalgpt_("train", *args), code, says)
    assert not Path("run").exists()


def test_a_folder_with_a_run_is_not_written_over(here):
    succeeded(train("--steps", "1"))
    error_line(train("--steps", "1"), 2, "run holds a training run already", "--resume run")


def test_a_model_without_a_trainer_is_refused(here):
    plugin = (
        "import evalgpt\nfrom models import BytesModel\n\ndef make(argument: str | None):\n    return BytesModel()\n"
    )
    plugin += "\n@evalgpt.hookimpl\ndef register_models(register):\n    register('bytes', make)\n"
    Path("bytes.py").write_text(plugin)
    result = evalgpt_("train", "--plugin", "bytes.py", "-m", "bytes", "-t", "text:book.txt", "-o", "run")
    error_line(result, 2, "model bytes cannot be trained by evalgpt; scratch and gpt2 can")
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["garbage", "other"])
def test_a_checkpoint_that_is_not_the_runs_is_one_line(here, name):
    succeeded(train("--steps", "2"))
    if name == "garbage":
        Path("run/last.safetensors").write_bytes(b"this is not a checkpoint")
        says = "run/last.safetensors is not a readable safetensors file"
    else:
        Path("run/best.safetensors").rename("run/last.safetensors")
        says = "run/last.safetensors holds no training run to go on with"
    error_line(evalgpt_("train", "--resume", "run"), 1, says)


def test_the_sample_is_written_after_each_epoch(here):
    result = evalgpt_(
        "train",
        "-m",
        SMALL,
        "-t",
        "text:book.txt",
        "-o",
        "run",
        "--epochs",
        "2",
        "--sample",
        "Ten\x1b",
        "--sample-tokens",
        "3",
    )
    succeeded(result)
    samples = read_training(Path("run")).samples
    assert [s.epoch for s in samples] == [1, 2]
    assert all(s.text.startswith("Ten\x1b") for s in samples)
    assert "\x1b" not in result.stdout


def test_gpt2s_weights_are_fine_tuned_and_its_head_stays_tied(here):
    pytest.importorskip("transformers", reason="needs the extra hf")
    from test_gpt2 import save

    save("gpt2", positions=32)
    given = ["-t", "text:book.txt", "--steps", "4", "--learning-rate", "0.01", "--sample", ""]
    succeeded(evalgpt_("train", "-m", "gpt2:./gpt2", *given, "-o", "run"))
    weights, _ = tensors_of("run/last.safetensors")
    assert torch.equal(weights["out_head.weight"], weights["tok_emb.weight"])
    assert not any(name.startswith("training.exp_avg.out_head") for name in weights), "one matrix, one update"
    log = read_training(Path("run"))
    assert log.evaluations[-1].train_loss < log.evaluations[0].train_loss
    found = evalgpt.evaluate("scratch:weights=run/last.safetensors", "text:book.txt", "book")
    assert found.splits["train"].loss == pytest.approx(log.evaluations[-1].train_loss, abs=1e-6)
    assert found.model.config["qkv_bias"] is True


def test_a_run_fine_tuned_from_weights_goes_on_to_the_same_bits(here):
    succeeded(train("--steps", "2", folder="first"))
    given = ["-m", "scratch:weights=first/last.safetensors", "-t", "text:book.txt", "--steps", "9", "--sample", ""]
    given += ["--save-every", "2", "--warmup", "3", "--decay", "cosine", "--clip", "0.5", "--accumulate", "2", "-q"]
    assert process(COMMAND, "train", *given, "-o", "whole").returncode == 0
    assert process(sys.executable, "-c", KILLER, "SIGKILL", "train", *given, "-o", "run").returncode < 0
    assert process(COMMAND, "train", "--resume", "run", "-q").returncode == 0
    same_bits("whole/last.safetensors", "run/last.safetensors")
