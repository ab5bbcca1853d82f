"""explain-difference: the steps sum to the gap, and each cause gets what a model made for it says it must."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from support.models import BytesModel, hashed_loss

import evalgpt
from evalgpt import Encoding, UsageError
from evalgpt.cli import cli
from evalgpt.core.plugins import load_plugins
from evalgpt.report import write_report
from evalgpt.studies.compare.difference import explain, numbers_of

TEXT = "Every effort moves you. I really like chocolate, and so does the rest of the house.\n" * 5


class Text(evalgpt.Task):
    name = "text"

    def __init__(self, text=TEXT):
        self.text = text

    def documents(self):
        yield evalgpt.Document("one", self.text[:300])
        yield evalgpt.Document("two", self.text[300:])


class PairsModel(BytesModel):
    """Tokens are pairs of bytes."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.vocab_size = 65537

    def encode(self, text):
        data = text.encode()
        ids = [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]
        return Encoding(ids, [(i, min(i + 2, len(data))) for i in range(0, len(data), 2)])


def made(protocol, loss=hashed_loss, model=BytesModel, task=None, **facts):
    built = model(loss)
    for key, value in facts.items():
        setattr(built, key, value)
    return evalgpt.evaluate(built, task or Text(), protocol)


def steps_of(a, b, *names):
    found = explain(a, b, names or (None, None))
    assert sum(step.nats for step in found.steps) == pytest.approx(found.nats, abs=1e-12)
    assert found.nats == pytest.approx(found.to.nats - found.origin.nats, abs=1e-12)
    return {step.name: step for step in found.steps}


PROTOCOLS = [
    "exact",
    "exact:context=16,stride=3",
    "exact:prefix=none",
    "lm-eval:context=20",
    "hf-strided:context=20,stride=7",
    "llama.cpp:context=16",
    "book:context=12",
    "book:context=12,stride=5",
]


@pytest.mark.parametrize("second", PROTOCOLS)
@pytest.mark.parametrize("first", PROTOCOLS)
def test_the_steps_sum_to_the_gap_and_back_is_the_opposite(first, second):
    a, b = made(first), made(second)
    there, back = steps_of(a, b), steps_of(b, a)
    assert set(there) == set(back)
    for name, step in there.items():
        assert step.nats == pytest.approx(-back[name].nats, abs=1e-12), name
    if first == second:
        assert all(step.nats == 0 for step in there.values())
    else:
        assert there


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_number_of_a_report_is_the_one_its_tool_quotes(protocol):
    evaluation = made(protocol)
    found = numbers_of(evaluation)
    assert found["loss"] == evaluation.metrics.loss
    for name, value in evaluation.peer.items():
        if "perplexity" in name:
            assert math.exp(found[name]) == pytest.approx(value)


OTHER = """
import evalgpt
from evalgpt.protocols.llama_cpp import LlamaCpp


class Other(LlamaCpp):
    name = "other"
    headline = "own_perplexity"

    def peer(self, rows):
        return {"first_perplexity": 3.0, "own_perplexity": 5.0}


@evalgpt.hookimpl
def register_protocols(register):
    register("other", lambda argument, *, context=16: Other(context))
"""


def test_a_protocol_of_a_plugin_says_its_headline_and_what_it_overwrites(tmp_path):
    (tmp_path / "other_protocol.py").write_text(OTHER)
    plugins = load_plugins([str(tmp_path / "other_protocol.py")])
    facts = {"adds_bos": True, "prefix_id": 256}
    a, b = made("exact", **facts), made(plugins.protocol("other"), **facts)
    found, peer = explain(a, b, plugins=plugins), explain(a, made("llama.cpp:context=16", **facts))
    assert (found.to.name, found.to.value) == ("own_perplexity", 5.0)
    assert [s for s in found.steps if s.name != "averaging"] == [s for s in peer.steps if s.name != "averaging"]
    assert not [note for note in found.notes if "plugin" in note]
    # The report alone does not say it, so without the plugin the number is another one, and a note says so.
    unknown = explain(a, b)
    assert unknown.to.name == "loss"
    assert [step.tokens for step in unknown.steps] != [step.tokens for step in found.steps]
    assert [note for note in unknown.notes if "the protocol other" in note]


def test_the_command_asks_the_plugins_that_it_was_given(tmp_path):
    path = tmp_path / "other_protocol.py"
    path.write_text(OTHER)
    protocols = "exact", load_plugins([str(path)]).protocol("other")
    reports = [tmp_path / "a.json", tmp_path / "b.json"]
    for report, protocol in zip(reports, protocols, strict=True):
        write_report(evalgpt.make_report([made(protocol)]), str(report))
    args = ["explain-difference", *map(str, reports)]
    asked, alone = (CliRunner().invoke(cli, [*args, *more]) for more in (["--plugin", str(path)], []))
    assert asked.exit_code == alone.exit_code == 0
    assert "own_perplexity 5.0000" in asked.stdout
    assert "own_perplexity 5.0000" not in alone.stdout


def test_a_dtype_alone_is_the_whole_gap():
    a = made("exact")
    b = made("exact", lambda c, t: hashed_loss(c, t) + 0.25, dtype="bfloat16", fingerprint="b")
    (step,) = steps_of(a, b).values()
    assert step.name == "dtype"
    assert step.nats == pytest.approx(0.25, abs=1e-6)
    assert step.tokens == len(TEXT)


def test_other_weights_and_rounding_have_names_of_their_own():
    a = made("exact")
    assert set(steps_of(a, made("exact", fingerprint="b"))) == {"weights"}
    assert set(steps_of(a, a)) == set()
    assert set(steps_of(a, made("exact", lambda c, t: hashed_loss(c, t) + 1e-4))) == {"rounding"}


def test_the_name_of_a_text_is_no_difference():
    class Named(Text):
        def documents(self):
            for document in super().documents():
                yield evalgpt.Document(f"another {document.id}", document.text)

    a, b = made("exact:context=16"), made("lm-eval:context=16", task=Named())
    assert set(steps_of(a, b)) == {"context"}


def test_a_prefix_has_what_it_does_to_tokens_that_are_else_predicted_from_the_same():
    def loss(context, target):
        return 1.0 + (256 not in context)

    a, b = made("exact:context=32,stride=32", loss), made("exact:context=32,stride=32,prefix=none", loss)
    found = steps_of(a, b)
    # Each document's first window: 32 tokens behind BOS, of which 31 follow on the other side as well; the other side's
    # windows begin one token later, and hold 32 targets behind t0.
    assert found["prefix"].tokens == 2 * 31
    assert found["prefix"].nats == pytest.approx(62 / (len(TEXT) - 2))
    assert found["unscored tokens"].tokens == 2


def test_context_has_what_the_number_of_tokens_before_does():
    def loss(context, target):
        return 1.0 / len(context)

    a, b = made("exact:context=32,stride=1,prefix=none", loss), made("exact:context=32,stride=32,prefix=none", loss)
    found = steps_of(a, b)
    assert set(found) == {"context"}
    assert found["context"].nats == pytest.approx(b.metrics.loss - a.metrics.loss)
    assert "32 in the mean against 15" in found["context"].why


def test_unscored_tokens_have_what_their_own_losses_make():
    def loss(context, target):
        return 5.0 if chr(target) == "E" else 1.0

    a, b = made("exact:context=32,stride=16", loss), made("llama.cpp:context=32", loss)
    (step,) = steps_of(a, b).values() if len(steps_of(a, b)) == 1 else [steps_of(a, b)["unscored tokens"]]
    assert step.nats == pytest.approx(b.metrics.loss - a.metrics.loss)
    assert f"{a.metrics.scores - b.metrics.scores} that only the first scored, 0 " in step.why


def test_averaging_is_the_tools_own():
    a = made("hf-strided:context=20,stride=7")
    (step,) = [s for s in explain(a, a, ("loss", "perplexity_v2")).steps if s.name == "averaging"]
    assert step.nats == pytest.approx(math.log(a.peer["perplexity_v2"]) - a.metrics.loss)
    words = explain(a, made("lm-eval:context=20"), (None, "word_perplexity"))
    (step,) = [s for s in words.steps if s.name == "averaging"]
    assert step.nats > 1  # per word, not per token
    assert step.why == "perplexity_v1 against word_perplexity"


def test_a_part_of_a_book_leaves_the_other_unscored():
    a = made("book:context=12")
    with pytest.raises(UsageError, match="no token was scored by both"):
        explain(a, a, ("train_loss", "validation_loss"))
    train = sum(row.scores for row in a.rows if row.split == "train")
    assert steps_of(a, a, "train_loss", "loss")["unscored tokens"].tokens == a.metrics.scores - train


def test_tokens_scored_twice_count_once():
    a = made("book:context=12,stride=5")
    losses = a.rows[0].tokenized
    once = np.unique(np.concatenate([np.arange(f, f + s) for f, s in zip(losses.first, losses.size, strict=True)]))
    assert len(once) < sum(losses.size)
    assert steps_of(a, made("exact"), "loss", "loss")["scored twice"].tokens == a.ledger.twice


def test_another_tokenizer_cuts_the_same_text_into_fewer_tokens():
    a = made("exact", lambda c, t: 1.0)
    b = made("exact", lambda c, t: 2.0, PairsModel, fingerprint="pairs", tokenizer={"name": "pairs"})
    found = steps_of(a, b)
    assert found["tokenizer"].nats == pytest.approx(1.0, abs=1e-9)  # half as many tokens for the same nats
    assert found["prediction"].nats == pytest.approx(0.0, abs=1e-9)


def test_what_cannot_be_explained_is_refused():
    a = made("exact")
    with pytest.raises(UsageError, match="the texts differ"):
        explain(a, made("exact", task=Text(TEXT + "!")))
    with pytest.raises(UsageError, match="has no number 'ppl'; it has loss"):
        explain(a, a, ("ppl", None))
    assert explain(a, a, ("perplexity", "loss")).origin.name == "loss"
    with pytest.raises(UsageError, match="with --tokens"):
        explain(a, evalgpt.evaluate(BytesModel(), Text(), tokens=False))


@pytest.fixture
def reports(tmp_path):
    for name, protocol in (("a", "lm-eval:context=20"), ("b", "hf-strided:context=20")):
        write_report(evalgpt.make_report([made(protocol)]), str(tmp_path / f"{name}.json"))
    return tmp_path


def run(*args):
    result = CliRunner().invoke(cli, list(map(str, args)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_command_prints_and_writes_the_steps(reports):
    result = run("explain-difference", reports / "a.json", reports / "b.json", "-o", reports / "d.json")
    assert result.exit_code == 0
    for word in ("perplexity_v1", "--number-a takes word_perplexity", "averaging", "unscored tokens", "context", "all"):
        assert word in result.stdout
    (found,) = json.loads((reports / "d.json").read_text())["differences"]
    assert sum(step["nats"] for step in found["steps"]) == pytest.approx(found["nats"])
    result = run("explain-difference", reports / "a.json", reports / "b.json", "--number-a", "loss", "-o", "-")
    assert json.loads(result.stdout)["differences"][0]["origin"]["name"] == "loss"


def test_the_command_refuses_in_one_line(reports):
    write_report(evalgpt.make_report([made("exact", task=Text("another text " * 9))]), str(reports / "c.json"))
    result = run("explain-difference", reports / "a.json", reports / "c.json")
    assert result.exit_code == 2
    assert "no text (task.sha256) of" in result.stderr
    result = run("explain-difference", reports / "a.json")
    assert result.exit_code == 2
    result = run("compare", reports / "a.json", reports / "b.json")
    assert result.exit_code == 2
    assert "explain-difference" in result.stderr


def test_a_loss_is_quoted_as_its_tool_prints_it(reports):
    write_report(evalgpt.make_report([made("book:context=12")]), str(reports / "c.json"))
    result = run("explain-difference", reports / "a.json", reports / "c.json", "--number-a", "bits_per_byte")
    book, lm_eval = made("book:context=12"), made("lm-eval:context=20")
    assert f"validation_loss {book.peer['validation_loss']:.5f} (as a perplexity " in result.stdout
    assert f"bits_per_byte {lm_eval.peer['bits_per_byte']:.5f} (as a perplexity " in result.stdout


def test_one_denominator_leaves_nothing_to_averaging_or_tokenizers():
    a = made("lm-eval:context=20", lambda c, t: 1.0)
    b = made("lm-eval:context=20", lambda c, t: 2.5, PairsModel, fingerprint="pairs", tokenizer={"name": "pairs"})
    (step,) = steps_of(a, b, "word_perplexity", "word_perplexity").values()
    assert step.name == "prediction"
    assert step.nats == pytest.approx(math.log(b.peer["word_perplexity"] / a.peer["word_perplexity"]))
    c = made("lm-eval:context=9", lambda c, t: 1.0 / len(c))
    d = made("lm-eval:context=20", lambda c, t: 1.0 / len(c))
    assert set(steps_of(c, d, "byte_perplexity", "byte_perplexity")) == {"context"}


def test_a_part_is_explained_from_that_part_alone():
    pairs = {"model": PairsModel, "fingerprint": "pairs", "tokenizer": {"name": "pairs"}}
    a, b = made("book:context=6"), made("book:context=6", **pairs)
    for part in ("train", "validation"):
        found = steps_of(a, b, f"{part}_loss", f"{part}_loss")
        size = sum(row.bytes for row in a.rows if row.split == part)
        assert int(found["prediction"].why.split()[2]) <= size
        assert all(step.tokens >= 0 for step in found.values())


def test_other_weights_in_another_dtype_are_both_named():
    a = made("exact")
    b = made("exact", lambda c, t: 1.0, dtype="bfloat16", fingerprint="b", spec="other")
    assert set(steps_of(a, b)) == {"weights, dtype"}


def test_tokens_without_spans_are_matched_by_number():
    def unspanned(protocol):
        return evalgpt.evaluate(BytesModel(spans=False), Text(), protocol)

    found = steps_of(unspanned("exact:context=12"), unspanned("book:context=12"))
    assert "tokenizer" not in found
    assert found["unscored tokens"].tokens > 0
