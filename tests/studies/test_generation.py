"""Text that a model writes: the course's loop, sampling, the context's end, characters in pieces."""

import json
import math
from collections import Counter

import msgspec
import numpy as np
import pytest
import torch
from support.cli import SMALL, error_line, evalgpt, succeeded
from support.models import BytesModel, Writer

from evalgpt import EvaluationError, Generation, UsageError, generate
from evalgpt.core.plugins import load_plugins
from evalgpt.studies.generation import Sampling

pytestmark = pytest.mark.numeric

CONTEXT = 64


@pytest.fixture(scope="module")
def small():
    return load_plugins().model(SMALL, device="cpu")


class Fixed(BytesModel):
    """The same distribution always."""

    def __init__(self, logits):
        super().__init__()
        self.logits = np.full(self.vocab_size, -np.inf, np.float32)
        self.logits[: len(logits)] = logits

    def next_logits(self, ids, count=1):
        return np.tile(self.logits, (count, 1))


@torch.inference_mode()
def plain_loop(module, ids, count, context):
    """The course's generate_text_simple, over full logits."""
    for _ in range(count):
        logits = module(torch.tensor([ids[-context:]]))
        ids = [*ids, int(logits[0, -1].argmax())]
    return ids


# greedy


def test_greedy_is_the_plain_loop_past_the_end_of_the_context(small):
    prompt = "Every effort moves you " * 10
    found = generate(small, prompt, tokens=40)
    ids = list(small.encode(prompt).ids)
    assert len(ids) < CONTEXT < len(ids) + 40
    assert [*found.fed_ids, *found.ids] == plain_loop(small.module, ids, 40, CONTEXT)
    assert found.stopped == "tokens"


@pytest.mark.slow
def test_the_courses_ten_tokens():
    model = load_plugins().model("scratch", device="cpu")
    found = generate(model, "Every effort moves you", tokens=10)
    assert [6109, 3626, 6100, 345, *found.ids] == plain_loop(model.module, found.fed_ids, 10, 256)
    assert found.text == " rentingetic wasnم refres RexMeCHicular stren"  # as the course prints it


def test_log_probabilities_are_what_score_says(small):
    from evalgpt import Window

    found = generate(small, "Every effort", tokens=5, sampling=Sampling(temperature=2.0, seed=3))
    window = Window([*found.fed_ids, *found.ids], len(found.fed_ids))
    assert found.log_probabilities == pytest.approx((-small.score([window])[0].nll).tolist(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tiled", ["true", "false"])
def test_both_kinds_of_torch_model_give_the_last_logits(tmp_path, tiled):
    hf_models = pytest.importorskip("support.hf_models", reason="needs the extra hf")
    reference = hf_models.save(tmp_path)
    model = hf_models.build(tmp_path, tiled=tiled)
    assert model.plain == (tiled == "false")
    ids = list(range(2, 40))
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0].numpy()
    for count in (1, 3, len(ids)):
        logits = model.next_logits(ids, count)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[-count:], atol=1e-4)
    assert model.eos_ids == (1,)


# sampling


def test_draws_follow_the_distribution():
    logits = np.log([0.5, 0.3, 0.15, 0.05]).astype(np.float32)
    for temperature, top_k in ((1.0, None), (2.0, None), (1.0, 2)):
        weights = np.exp(logits / temperature)
        weights[top_k:] = 0 if top_k else weights[top_k:]
        sampling = Sampling(temperature=temperature, top_k=top_k, seed=5)
        found = generate(Fixed(logits), "a", tokens=4000, sampling=sampling)
        counts = Counter(found.ids)
        assert sum(counts[i] for i in range(4)) == 4000
        for i, share in enumerate(weights / weights.sum()):
            assert abs(counts[i] / 4000 - share) < 4 * math.sqrt(0.25 / 4000)
        assert (3 in counts) == (top_k is None)
        # of the model's own distribution, whatever the temperature
        assert found.log_probabilities == pytest.approx([float(logits[i]) for i in found.ids], abs=1e-6)


def test_a_seed_repeats_and_another_differs(small):
    draw = [generate(small, "Every", sampling=Sampling(temperature=1.0, seed=s)).ids for s in (1, 1, 2)]
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert draw[0] == draw[1] != draw[2]
    generate(small, "Every", sampling=Sampling(temperature=1.0))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]


@pytest.mark.parametrize("how", [{"temperature": 1e-300}, {"temperature": 1.0, "top_k": 1}, {"temperature": 1e-3}])
def test_the_limits_of_sampling_are_greedy(how):
    model = Fixed([1.0, 3.0, 2.0])
    assert generate(model, "a", tokens=20, sampling=Sampling(**how)).ids == [1] * 20


# the end of the text


def test_eos_ends_the_text_unless_it_is_ignored():
    answer = [*b"Hi", 256]
    found = generate(Writer(answer, eos=256), "a", tokens=9)
    assert (found.text, found.stopped, found.ids) == ("Hi", "eos", [*b"Hi"])
    found = generate(Writer(answer, eos=256), "a", tokens=3, sampling=Sampling(stop_at_eos=False))
    assert (found.ids, found.stopped) == (answer, "tokens")
    assert generate(Writer(answer), "a", tokens=4).stopped == "tokens"
    assert generate(Writer([256], eos=256), "a").text == ""


def test_the_window_slides():
    model = Writer(b"xyz", context_length=4)
    generate(model, "abc", tokens=4)
    assert [bytes(fed) for fed in model.fed] == [b"abc", b"abcx", b"bcxy", b"cxyz"]


@pytest.mark.parametrize(
    ("prompt", "options", "prefix", "fed"),
    [
        ("ab", {}, None, [97, 98]),
        ("ab", {"adds_bos": True}, None, [256, 97, 98]),
        ("ab", {"adds_bos": True}, False, [97, 98]),
        ("ab", {}, True, [256, 97, 98]),
        ("", {}, None, [256]),
    ],
)
def test_what_is_fed_first(prompt, options, prefix, fed):
    model = Writer(b"x", **options)
    assert generate(model, prompt, tokens=1, prefix=prefix).fed_ids == model.fed[0] == fed


# characters in pieces


@pytest.mark.parametrize(
    ("answer", "pieces"),
    [
        ("aé😀b".encode(), ["a", "é", "😀", "b"]),
        ("שלום".encode(), list("שלום")),
        (b"a\xf0\x9f", ["a", "\ufffd"]),  # ends inside a character
        (b"\xffb", ["\ufffdb"]),  # never becomes one
    ],
)
def test_text_comes_in_whole_characters(answer, pieces):
    told = []
    found = generate(Writer(answer), "ü", tokens=len(answer), on_text=told.append)
    assert told == pieces
    assert found.text == "".join(pieces) == answer.decode(errors="replace")


def test_pieces_of_a_bpe_are_its_text(small):
    told = []
    found = generate(small, "Größe 😀", tokens=60, sampling=Sampling(temperature=3.0, seed=1), on_text=told.append)
    assert "".join(told) == found.text
    assert found.text == small.decode([*found.fed_ids, *found.ids])[len("Größe 😀") :]


# refusals


@pytest.mark.parametrize(
    ("model", "prompt", "options", "error", "says"),
    [
        (BytesModel(), "a", {}, UsageError, "gives no logits"),
        (Writer(b"x", prefix_id=None), "", {}, UsageError, "neither BOS nor EOS"),
        (Writer(b"x", prefix_id=None), "a", {"prefix": True}, UsageError, "neither BOS nor EOS"),
        (Writer(b"x"), "", {"prefix": False}, UsageError, "prompt is empty"),
        (Writer(b"x"), "\ud800", {}, EvaluationError, "the prompt is not UTF-8"),
        (Writer(b"x"), "a", {"tokens": 0}, UsageError, "tokens must be"),
        (Writer(b"x"), "a", {"sampling": Sampling(temperature=-1.0)}, UsageError, "temperature must be"),
        (Writer(b"x"), "a", {"sampling": Sampling(temperature=math.nan)}, UsageError, "temperature must be"),
        (Writer(b"x"), "a", {"sampling": Sampling(top_k=3)}, UsageError, "give a temperature"),
        (Writer(b"x"), "a", {"sampling": Sampling(temperature=1.0, top_k=0)}, UsageError, "top-k must be"),
        (Writer(b"x"), "a", {"sampling": Sampling(seed=-1)}, UsageError, "seed must be"),
        (Fixed([np.nan]), "a", {}, EvaluationError, "no numbers"),
        (Fixed([]), "a", {}, EvaluationError, "no numbers"),
        (Fixed([np.inf]), "a", {}, EvaluationError, "no numbers"),
    ],
)
def test_what_cannot_be_generated(model, prompt, options, error, says):
    with pytest.raises(error, match=says):
        generate(model, prompt, **options)


# the command


def test_the_command_prints_prompt_and_text(small):
    result = succeeded(evalgpt("generate", "Every effort", "-m", SMALL, "-n", "4"))
    assert result.stdout == f"Every effort{generate(small, 'Every effort', tokens=4).text}\n"
    assert result.stderr.startswith("4 tokens, ")
    piped = succeeded(evalgpt("generate", "-", "-m", SMALL, "-n", "4", "-q", input="Every effort\n"))
    assert (piped.stdout, piped.stderr) == (result.stdout, "")


def test_the_document_is_typed(tmp_path):
    command = ("generate", "Every", "-m", SMALL, "--temperature", "0.9", "--top-k", "9", "--seed", "2", "--ignore-eos")
    result = succeeded(evalgpt(*command, "--json"))
    found = msgspec.json.decode(result.stdout, type=Generation)
    assert found.schema == "evalgpt.generation/1"
    assert found.sampling == Sampling(temperature=0.9, top_k=9, seed=2, stop_at_eos=False)
    assert len(found.ids) == len(found.log_probabilities) == 25
    assert found.text in result.stderr
    succeeded(evalgpt(*command, "-o", str(tmp_path / "a.json")))
    written = msgspec.json.decode((tmp_path / "a.json").read_bytes(), type=Generation)
    assert msgspec.structs.replace(written, command=found.command) == found
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(result.stdout), json.loads(succeeded(evalgpt("schema", "generation")).stdout))


PLUGIN = """
import evalgpt
from support.models import BytesModel

@evalgpt.hookimpl
def register_models(register):
    register("plain", lambda argument: BytesModel())
"""


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--top-k", "3"], 2, "give a temperature"),
        (["--temperature", "-1"], 2, "temperature must be"),
        (["--temperature", "warm"], 2, "not a valid float"),
        (["-n", "0"], 2, "--tokens"),
        (["-o", "nothere/x.json"], 2, "there is no folder"),
        (["-m", "plain", "--plugin", "plain.py"], 2, "model bytes gives no logits, only losses: it cannot generate"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, args, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.py").write_text(PLUGIN)
    model = [] if "-m" in args else ["-m", SMALL]
    result = evalgpt("generate", "Every", *model, *args)
    assert (result.exit_code, result.stdout) == (code, "")
    error_line(result.stderr, says)
