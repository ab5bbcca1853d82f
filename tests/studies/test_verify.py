"""verify: a report holds on the machine that made it, and one changed weight, byte, parameter or number is named."""

import msgspec
import pytest
from click.testing import CliRunner
from support.models import BytesModel, hashed_loss

import evalgpt
from evalgpt import EvaluationError, UsageError
from evalgpt.cli import cli
from evalgpt.core.plugins import load_plugins
from evalgpt.report import read_report, write_report
from evalgpt.report.verdicts import Verdict
from evalgpt.studies.verify.verification import verify

pytestmark = pytest.mark.numeric

MODEL = "scratch:emb_dim=32,n_heads=2,n_layers=1,context_length=32"
TEXT = "Every effort moves you. I really like chocolate, and so does the rest of the house. " * 6


class Text(evalgpt.Task):
    name = "one"

    def __init__(self, text=TEXT, context="before "):
        self.text = text
        self.context = context

    def documents(self):
        yield evalgpt.Document("one", self.text[:200])
        yield evalgpt.Document("two", self.text[200:], context=self.context)


def made(protocol="exact:context=16,stride=8", task=None, **options):
    return evalgpt.evaluate(BytesModel(), task or Text(), protocol, **options)


def check(evaluation, model=None, task=None, protocol="exact:context=16,stride=8", **options):
    return verify(evaluation, model or BytesModel(), task or Text(), load_plugins().protocol(protocol), **options)


def change(evaluation, path, value):
    """A copy of ``evaluation`` in which one field is another."""
    head, _, rest = path.partition(".")
    old = evaluation[int(head)] if head.isdigit() else getattr(evaluation, head)
    new = change(old, rest, value) if rest else value
    if head.isdigit():
        return [new if i == int(head) else item for i, item in enumerate(evaluation)]
    if isinstance(evaluation, msgspec.Struct):
        return msgspec.structs.replace(evaluation, **{head: new})
    import dataclasses

    return dataclasses.replace(evaluation, **{head: new})


@pytest.mark.parametrize(
    "protocol", ["exact", "exact:context=16,stride=4,prefix=none", "lm-eval:context=10", "book:context=8"]
)
def test_a_report_holds_where_it_was_made(protocol):
    task = Text(context="before " if protocol.startswith("exact") else "")
    evaluation = made(protocol, task)
    found = check(evaluation, task=task, protocol=protocol)
    assert (found.losses, found.of) == (evaluation.metrics.scores, evaluation.metrics.scores)
    assert found.largest == found.mean == 0


def test_a_report_read_from_a_file_holds_to_the_last_digit(tmp_path):
    write_report(evalgpt.make_report([made()]), str(tmp_path / "r.json"))
    (evaluation,) = read_report(str(tmp_path / "r.json")).evaluations
    assert check(evaluation).largest == 0


def test_quick_scores_a_sample_of_windows_again():
    calls = BytesModel()
    found = check(made(), calls, windows=3, seed=1)
    assert sum(len(batch) for batch in calls.batches) == 3
    assert 3 <= found.losses < found.of


def test_another_loss_is_named_with_its_token():
    def other(context, target):
        return hashed_loss(context, target) + 0.01 * (len(context) == 12 and target == ord("o"))

    with pytest.raises(
        EvaluationError, match=r"^losses: token \d+ of '\w+' has [\d.]+ nats in the report and [\d.]+ now"
    ):
        check(made(), BytesModel(other))
    assert check(made(), BytesModel(other), tolerance=0.02).largest == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.fingerprint", "sha256:0", r"weights: fingerprint is sha256:0 in the report and bytes now"),
        ("model.vocab_size", 300, "model: vocab_size is 300 in the report and 257 now"),
        ("model.tokenizer", {"name": "gpt2"}, "tokenizer: tokenizer.name is gpt2 in the report and unknown now"),
        ("task.sha256", "00", "text: sha256 is 00 in the report and "),
        ("protocol.settings", {"context": 16, "stride": 8, "prefix": "none"}, "protocol: prefix is none in the report"),
        ("metrics.loss", 3.0, r"numbers: metrics.loss is 3.0 in the report and [\d.]+ by the losses it keeps"),
        ("metrics.perplexity", 3.0, r"numbers: metrics.perplexity is 3.0 in the report"),
        ("verdicts", [], "numbers: verdicts.length is 0 in the report and 1 by the losses it keeps"),
        (
            "verdicts",
            [Verdict("a", "b")],
            r"numbers: verdicts\[0\].name is a in the report and worse_than_uniform by the losses it keeps",
        ),
        ("notes", ["all is well"], "numbers: notes.length is 1 in the report and 0 by"),
        (
            "notes",
            ["certified; it did not fit the memory of anyone"],
            "numbers: notes.length is 1 in the report and 0 by",
        ),
        ("task.bytes", 7, "text: bytes is 7 in the report and 504 now"),
        ("task.documents", 7, "text: documents is 7 in the report"),
        ("model.trained", True, "model: trained is True in the report and None now"),
        ("model.name", "better", "model: name is better in the report and bytes now"),
        ("model.config", {"n": 9}, "model: config.n is 9 in the report and None now"),
        ("protocol.source", "me", "protocol: source is me in the report and evalgpt now"),
        ("ledger.head", 3, r"numbers: ledger.head is 3 in the report and 0 by"),
        ("rows.1.sha256", "00", r"numbers: rows\[1\].sha256 is 00 in the report"),
        ("rows.1.tokenized.byte_ends.3", 77, r"numbers: rows\[1\].tokenized.byte_ends\[3\] is 77 in the report"),
        ("rows.0.tokenized.ids.5", 1, r"tokens: rows\[0\] \(one\), token 5 is 1 in the report"),
        ("rows.0.tokenized.nll.5", 1.0, r"losses: token 5 of 'one' has 1 nats in the report"),
        ("rows.0.tokenized.context.1", 3, r"protocol: rows\[0\] \(one\), window 1 is first 16, size 8, context 3 in"),
        ("rows.0.tokens", 3, r"tokens: rows\[0\] \(one\).tokens is 3 in the report and 200 now"),
    ],
)
def test_what_was_changed_is_named(path, value, message):
    with pytest.raises(EvaluationError, match=f"^{message}"):
        check(change(made(), path, value))


def test_another_byte_of_text_another_prefix_or_stride_is_named():
    with pytest.raises(EvaluationError, match=r"^text: sha256 is "):
        check(made(), task=Text(TEXT.replace("chocolate", "chocolatE", 1)))
    with pytest.raises(EvaluationError, match=r"^protocol: stride is 8 in the report and 4 now"):
        check(made(), protocol="exact:context=16,stride=4")
    with pytest.raises(EvaluationError, match=r"^model: prefix_id is 256 in the report and None now"):
        check(made(), BytesModel(prefix_id=None))


def test_a_report_without_single_losses_is_verified_by_its_numbers():
    evaluation = made(tokens=False)
    assert check(evaluation).losses == 0
    with pytest.raises(EvaluationError, match=r"^losses: metrics.loss|^numbers: metrics.loss is 5.0"):
        check(change(evaluation, "metrics.loss", 5.0))
    with pytest.raises(UsageError, match="--quick"):
        check(evaluation, windows=3)


def run(*args, **options):
    result = CliRunner().invoke(cli, list(args), **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def report(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    path = str(tmp_path / "r.json")
    task = f"text:{tmp_path / 'text.txt'}"
    assert run("run", "-m", MODEL, "-t", task, "-p", "exact", "--dtype", "float64", "-o", path).exit_code == 0
    return tmp_path


def test_the_command_verifies_in_the_reports_dtype(report):
    result = run("verify", str(report / "r.json"))
    assert result.exit_code == 0, result.output
    assert "verified" in result.stdout
    assert "largest difference 0 nats" in result.stdout
    assert run("verify", str(report / "r.json"), "--quick", "--windows", "2").exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("context_length=32", "context_length=32,seed=9", "weights: fingerprint is "),
        (
            '"stride": 16',
            '"stride": 15',
            "window 1 is first 32, size 16, context 17 in the report and first 32, size 15, context 18 now",
        ),
        ('"stride": 16', '"stride": 99', "protocol: stride 99 is out of range"),
        ('"name": "exact"', '"name": "lm-eval"', "protocol: "),
    ],
)
def test_the_command_fails_in_one_line(report, old, new, message):
    path = report / "r.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    result = run("verify", str(path))
    assert result.exit_code == 1
    assert f"FAILED    {path}: " in result.stdout
    assert message in result.stdout
    assert "1 of 1 evaluations do not hold" in result.stderr


def test_a_changed_text_fails_and_a_missing_one_is_told(report):
    (report / "text.txt").write_text(TEXT + ".")
    result = run("verify", str(report / "r.json"))
    assert result.exit_code == 1
    assert "text: sha256 is " in result.stdout
    (report / "text.txt").unlink()
    result = run("verify", str(report / "r.json"))
    assert result.exit_code == 2
    assert f"UNKNOWN   {report / 'r.json'}: " in result.stdout
    assert "1 of 1 could not be verified" in result.stderr


def test_a_text_that_came_from_standard_input_and_is_gone_cannot_be_told(tmp_path):
    path = str(tmp_path / "r.json")
    assert run("run", "-m", MODEL, "-t", "text:-", "-o", path, input=TEXT).exit_code == 0
    result = run("verify", path, input="")
    assert result.exit_code == 2
    assert "standard input is empty" in result.stdout
    assert run("verify", path, input=TEXT).exit_code == 0
    assert run("verify", path, input=TEXT + ".").exit_code == 1


def test_what_cannot_be_told_does_not_stop_the_others(report):
    path = report / "r.json"
    unknown = report / "unknown.json"
    unknown.write_text(path.read_text().replace("scratch:", "scratcch:"))
    (report / "broken.json").write_text("{}")
    result = run("verify", *(str(report / name) for name in ("none.json", "unknown.json", "broken.json", "r.json")))
    assert result.exit_code == 2
    assert "unknown model 'scratcch'" in result.stdout
    assert result.stdout.count("UNKNOWN") == 3
    assert f"verified  {path}" in result.stdout
    assert "from 0 up" in run("verify", str(path), "--tolerance", "-1").stderr


@pytest.mark.parametrize("field", ["ids", "byte_ends", "first", "size", "context", "nll"])
def test_lists_that_do_not_fit_together_are_told(report, field):
    import json

    path = report / "r.json"
    document = json.loads(path.read_text())
    document["evaluations"][0]["rows"][0]["tokenized"][field].pop()
    path.write_text(json.dumps(document))
    for command in (["verify", str(path)], ["explain-difference", str(path), str(path)], ["show", str(path)]):
        result = run(*command)
        assert result.exit_code == 2
        assert "rows[0].tokenized has lists that do not fit together" in result.output


def test_the_memory_of_a_run_need_not_last():
    """It is in the timing; earlier reports, whose timing does not say, have it at the end of their notes."""
    evaluation = change(made(), "timing.failed_batch_tokens", 2048)
    assert check(evaluation).largest == 0
    note = f"a batch of 2048 tokens did not fit the memory; the last ones had at most {evaluation.batch_tokens}"
    old = change(change(evaluation, "timing.failed_batch_tokens", None), "notes", [note])
    assert check(old).largest == 0
    for wrong in ([note, "all is well"], [note.replace("memory", "bill")], [note + "0"], [note, note]):
        with pytest.raises(EvaluationError, match=r"numbers: notes.length"):
            check(change(old, "notes", wrong))
    with pytest.raises(EvaluationError, match=r"numbers: notes.length"):
        check(change(evaluation, "notes", [note]))


@pytest.mark.parametrize("tokens", [True, False])
def test_what_a_task_says_of_its_texts_is_verified(tokens):
    class Noted(Text):
        notes = ("one file was left out",)

    evaluation = made(task=Noted(), tokens=tokens)
    assert evaluation.notes == ["one file was left out"]
    check(evaluation, task=Noted())
    with pytest.raises(EvaluationError, match=r"numbers: notes.length is 1 in the report and 0"):
        check(evaluation)


def test_files_beside_the_text_may_come_and_go(tmp_path):
    (tmp_path / "a.txt").write_text("some words that are read")
    (tmp_path / "b.docx").write_bytes(b"PK")
    evaluation = evalgpt.evaluate(BytesModel(), f"text:{tmp_path}")
    assert "b.docx" in evaluation.notes[0]
    (tmp_path / "report.json").write_text('{\n  "schema": 1}')
    evalgpt.verify(evaluation, BytesModel())
    for path in tmp_path.glob("[br]*"):
        path.unlink()
    evalgpt.verify(evaluation, BytesModel())


def test_a_shift_to_one_side_is_no_rounding():
    evaluation = change(made(), "model.dtype", "bfloat16")
    model = BytesModel(lambda c, t: hashed_loss(c, t) + 0.2)
    model.dtype = "bfloat16"
    with pytest.raises(
        EvaluationError, match=r"^losses: on average they are \+0.2 nats away .*rounding goes both ways"
    ):
        check(evaluation, model)


def test_without_single_losses_counts_must_be_exact():
    evaluation = change(made(tokens=False), "model.dtype", "bfloat16")
    model = BytesModel()
    model.dtype = "bfloat16"
    check(evaluation, model)
    with pytest.raises(EvaluationError, match=r"^numbers: ledger.scored is 503 in the report and 504 now"):
        check(change(evaluation, "ledger.scored", 503), model)
    with pytest.raises(EvaluationError, match=r"^numbers: metrics.perplexity is"):
        check(change(evaluation, "metrics.perplexity", evaluation.metrics.perplexity * 0.9), model)


def test_a_tokenizer_that_says_odd_things_of_itself_holds():
    import numpy as np

    model = BytesModel()
    model.tokenizer = {"name": "odd", "n": np.int64(4), "s": np.float32(1.5), "nan": float("nan"), "m": {1: "a"}}
    check(evalgpt.evaluate(model, Text(), "exact:context=16,stride=8"), model)


def test_a_report_is_verified_with_what_it_names(report):
    stored = read_report(str(report / "r.json"))
    found = evalgpt.verify(stored)
    assert (found.losses, found.largest) == (stored.evaluations[0].metrics.scores, 0)
    sample = evalgpt.VerificationOptions(windows=2)
    assert evalgpt.verify(stored.evaluations[0], options=sample, device="cpu").losses < found.losses
    assert evalgpt.verify(stored, MODEL, f"text:{report / 'text.txt'}", "exact") == found
    with pytest.raises(EvaluationError, match=r"^weights: "):
        evalgpt.verify(stored, f"{MODEL},seed=9")
    with pytest.raises(EvaluationError, match=r"^text: sha256"):
        evalgpt.verify(stored, task="pairs")
    (report / "text.txt").unlink()
    with pytest.raises(UsageError, match="no file or folder"):
        evalgpt.verify(stored)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"windows": 0}, "windows"), ({"tolerance": -1.0}, "tolerance"), ({"device": "cpu"}, "already built")],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(UsageError, match=named):
        check(made(), **options)


@pytest.mark.parametrize("count", [0, 2])
def test_one_evaluation_is_verified_at_a_time(count):
    with pytest.raises(UsageError, match=f"{count} evaluations"):
        evalgpt.verify(evalgpt.make_report([made()] * count))
    with pytest.raises(UsageError, match="not str"):
        evalgpt.verify("r.json")
