"""``evalgpt train``: its log, its checkpoints as models, and one line for everything that goes wrong."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
import torch
from support.training_runs import SMALL, error_line, evalgpt_, succeeded, tensors_of, train

import evalgpt
from evalgpt.adapters.gpt.training import TorchTrainer
from evalgpt.studies.training.log import read_training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_a_run_leaves_a_log_that_fits_its_schema_and_weights_that_give_its_losses(book_here):
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
    told = " ".join(result.stdout.split())
    assert "-m scratch:weights=run/best.safetensors -t text:book.txt -p book --context 32 --stride 32" in told
    for name, found in (
        ("best", next(e for e in log.evaluations if e.updates == log.best.updates)),
        ("last", log.evaluations[-1]),
    ):
        run = evalgpt.evaluate(f"scratch:weights=run/{name}.safetensors", "text:book.txt", "book")
        assert run.splits["train"].loss == found.train_loss
        assert run.splits["validation"].loss == found.validation_loss
        assert run.model.fingerprint == found.fingerprint
        assert run.model.config["n_heads"] == 2, "read from the file"


def test_the_initial_evaluation_is_that_of_the_model_untrained(book_here):
    succeeded(train("--steps", "1"))
    found = read_training(Path("run")).evaluations[0]
    run = evalgpt.evaluate(SMALL, "text:book.txt", "book")
    assert (found.updates, found.train_loss) == (0, run.splits["train"].loss)
    assert found.fingerprint == run.model.fingerprint


def test_a_checkpoint_says_its_own_configuration_and_refuses_another(book_here):
    succeeded(train("--steps", "1"))
    given = evalgpt_("run", "-m", "scratch:weights=run/best.safetensors,n_heads=4", "-t", "pairs")
    error_line(given, 2, "run/best.safetensors has n_heads=2, not 4")
    error_line(evalgpt_("run", "-m", "scratch:124M,weights=run/best.safetensors", "-t", "pairs"), 2, "emb_dim=16")


def test_resuming_a_run_that_is_whole_changes_nothing(book_here):
    first = succeeded(train("--steps", "4", "-q"))
    before = Path("run/training.json").read_bytes(), Path("run/last.safetensors").stat().st_mtime_ns
    assert succeeded(evalgpt_("train", "--resume", "run", "-q")).stdout == first.stdout
    after = Path("run/training.json").read_bytes(), Path("run/last.safetensors").stat().st_mtime_ns
    assert json.loads(before[0]) == json.loads(after[0])
    assert before[1] == after[1]


def test_a_learning_rate_that_diverges_is_one_line_and_keeps_the_checkpoint(book_here):
    result = train("--steps", "8", "--learning-rate", "1e37", "--save-every", "1", "-q")
    error_line(result, 1, "run/best.safetensors has the weights after 0 updates")
    weights, _ = tensors_of("run/best.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert len(read_training(Path("run")).evaluations) == 1


def test_a_loss_that_diverges_between_evaluations_names_the_last_checkpoint(book_here, monkeypatch):
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


def test_a_text_too_short_for_a_batch_is_one_line_and_no_folder(book_here):
    error_line(
        train("-q", text="short.txt"), 1, "the text is too short to train on", "windows of 32 tokens that it takes"
    )
    Path("two.txt").write_text(Path("book.txt").read_text(encoding="utf-8")[:200], encoding="utf-8")
    error_line(train("-q", "--batch", "1", text="two.txt"), 1, "the text is too short to train on")
    error_line(train("-q", "--batch", "500"), 1, "of the 500 windows of 32 tokens that it takes")
    small = ["train", "-m", f"{SMALL},vocab_size=50000", "-t", "text:book.txt", "-o", "run"]
    error_line(evalgpt_(*small, "--sample", " informants"), 1, "outside the vocabulary")
    assert not Path("run").exists()


def test_the_text_and_the_model_must_be_those_the_run_began_with(book_here):
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
    (
        ["-m", SMALL, "-t", "story", "-o", "run", "--steps", "2", "--epochs", "2"],
        2,
        "--steps takes the place of --epochs",
    ),
    (["-m", SMALL, "-t", "story", "-o", "run", "--context", "64"], 2, "context 64 is out of range"),
    (["-m", SMALL, "-t", "story", "-o", "run", "--dtype", "float16"], 2, "cannot be trained in float16"),
    (["-m", SMALL, "-t", "story", "-o", "run", "--learning-rate", "0"], 2, "--learning-rate"),
    (["--resume", "nothere"], 2, "nothere holds no training run"),
    (["--resume", "run", "--steps", "3", "-o", "x"], 2, "leave out --steps, --output"),
]


@pytest.mark.parametrize(("args", "code", "says"), BAD, ids=[says for *_, says in BAD])
def test_bad_input_is_one_line(book_here, args, code, says):
    error_line(evalgpt_("train", *args), code, says)
    assert not Path("run").exists()


def test_a_folder_with_a_run_is_not_written_over(book_here):
    succeeded(train("--steps", "1"))
    error_line(train("--steps", "1"), 2, "run holds a training run already", "--resume run")


def test_a_model_without_a_trainer_is_refused(book_here):
    plugin = "import evalgpt\nfrom support.models import BytesModel\n\n"
    plugin += "def make(argument: str | None):\n    return BytesModel()\n"
    plugin += "\n@evalgpt.hookimpl\ndef register_models(register):\n    register('bytes', make)\n"
    Path("bytes.py").write_text(plugin)
    result = evalgpt_("train", "--plugin", "bytes.py", "-m", "bytes", "-t", "text:book.txt", "-o", "run")
    error_line(result, 2, "model bytes cannot be trained")
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["garbage", "other"])
def test_a_checkpoint_that_is_not_the_runs_is_one_line(book_here, name):
    succeeded(train("--steps", "2"))
    if name == "garbage":
        Path("run/last.safetensors").write_bytes(b"this is not a checkpoint")
        says = "run/last.safetensors is not a readable safetensors file"
    else:
        Path("run/best.safetensors").rename("run/last.safetensors")
        says = "run/last.safetensors holds no training run to go on with"
    error_line(evalgpt_("train", "--resume", "run"), 1, says)


def test_the_sample_is_written_after_each_epoch(book_here):
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


def test_gpt2s_weights_are_fine_tuned_and_its_head_stays_tied(book_here):
    pytest.importorskip("transformers", reason="needs the extra hf")
    from support.gpt2_checkpoints import save

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
