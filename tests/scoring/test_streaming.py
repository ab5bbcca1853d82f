"""Texts too long to hold: the same ids, the same windows, the same numbers, in memory that does not grow."""

import json
import tracemalloc
import weakref
from dataclasses import asdict

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.models import BytesModel, uniform_loss

import evalgpt
from evalgpt.cli import cli
from evalgpt.core import Document, Task
from evalgpt.core.plugins import load_plugins
from evalgpt.protocols.exact import exact
from evalgpt.report import read_report
from evalgpt.report.describe import task_info
from evalgpt.scoring import cells, streaming
from evalgpt.tasks import reading, text

pytestmark = pytest.mark.numeric

bpe = pytest.importorskip("evalgpt.adapters.gpt.tokenizer")


@pytest.fixture(scope="module")
def tokenizer():
    try:
        return bpe.GPT2Tokenizer()
    except evalgpt.EvaluationError as error:
        pytest.skip(f"needs GPT-2's tables: {error}")


@pytest.fixture
def short(monkeypatch):
    """Texts are long from 100 bytes on, and read 64 at a time."""
    monkeypatch.setattr(text, "LONG", 100)
    monkeypatch.setattr(reading, "PART", 64)


PIECES = st.sampled_from(
    [
        "a",
        "Ä",
        "word",
        "9",
        "²",
        "Ⅷ",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "'",
        "'s",
        "'ll",
        "’",
        ".",
        "—",
        "😀",
        "e\u0301",
    ]
    + ["\u00a0", "\u2028", "\x1c", "\x85", "\u3000", "\u200b", "\u00ad", "語", "ا", "<|endoftext|>", "\x00", "_", "ª"]
)


@given(st.lists(PIECES, max_size=40).map("".join))
@example("it's  a dog's\n\n life \u00a0x9 y")
@settings(max_examples=400, deadline=None)
def test_a_cut_changes_no_id(tokenizer, text):
    whole = list(tokenizer.encode(text).ids)
    at = len(text)
    while at := tokenizer.cut(text[:at]):
        parts = [*tokenizer.encode(text[:at]).ids, *tokenizer.encode(text[at:]).ids]
        assert parts == whole, repr(text[:at])


@pytest.fixture(scope="module")
def model():
    return load_plugins().model("scratch:emb_dim=8,n_heads=1,n_layers=1,context_length=8", device="cpu")


@given(st.lists(st.text(min_size=1, max_size=12), max_size=30), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_parts_of_any_size_give_the_ids_of_the_whole(model, tokenizer, words, size):
    whole = " ".join(words)
    parts = [whole[i : i + size] for i in range(0, len(whole), size)]
    found = list(streaming.encoded_parts(model, Document("x", "", parts=lambda: parts)))
    assert "".join(part for part, _ in found) == whole
    assert [i for _, encoding in found for i in encoding.ids] == list(tokenizer.encode(whole).ids)


def test_the_story_is_cut_often(tokenizer):
    story = next(load_plugins().task("story").documents()).text
    cuts = 0
    at = len(story)
    while at := tokenizer.cut(story[:at]):
        cuts += 1
    assert cuts > 3000


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 12), st.sampled_from([None, 99]))
def test_windows_of_a_stream_are_those_of_the_text(tokens, context, stride, prefix):
    stride = min(stride, context)
    ids = list(range(tokens))
    made = list(exact(iter(ids), context, stride, prefix))
    assert made == list(exact(ids, context, stride, prefix))
    scored = [w.begin + k for w in made for k in range(w.start, len(w.ids))]
    assert scored == list(range(0 if prefix is not None else 1, tokens))


def evaluations(model, spec, monkeypatch, **how):
    """The evaluation of a text held whole, and of the same read in parts."""
    task = load_plugins().task(spec)
    streamed = evalgpt.evaluate(model, task, **how)
    monkeypatch.setattr(text, "LONG", 1 << 40)
    whole = evalgpt.evaluate(model, load_plugins().task(spec), tokens=False, **how)
    assert streamed.rows == []
    assert whole.rows != []
    return streamed, whole


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("protocol", ["exact:context=16,stride=5", "exact:context=16,prefix=none", "exact:context=64"])
def test_the_numbers_are_those_of_the_whole(tmp_path, monkeypatch, protocol):
    path = tmp_path / "a.txt"
    path.write_text("  Über every effort, \u2003naïve 😀 words move you!\n\n" * 60 + "end")
    model = load_plugins().model("scratch:emb_dim=8,n_heads=1,n_layers=1,context_length=64", device="cpu")
    streamed, whole = evaluations(model, f"text:{path}", monkeypatch, protocol=protocol)
    assert streamed.task == whole.task
    assert streamed.ledger == whole.ledger
    assert streamed.verdicts == whole.verdicts
    one, other = asdict(streamed.metrics), asdict(whole.metrics)
    spread, expected = one.pop("uncertainty"), other.pop("uncertainty")
    assert one.pop("mean_text_perplexity") is other.pop("mean_text_perplexity") is None
    assert one == pytest.approx(other, rel=1e-9)
    assert spread.pop("method") == expected.pop("method") == "cosines"
    for name, value in spread.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-7)


@pytest.mark.usefixtures("short")
def test_many_documents_are_clusters_as_ever(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {k} " * (1 + k % 5)}) + "\n" for k in range(40)))
    model = load_plugins().model("scratch:emb_dim=8,n_heads=1,n_layers=1,context_length=64", device="cpu")
    streamed, whole = evaluations(model, f"text:{path}", monkeypatch)
    assert streamed.metrics.uncertainty.method == "clusters"
    assert streamed.metrics.uncertainty.units == 40
    assert streamed.task == whole.task
    assert streamed.ledger == whole.ledger
    for name in ("loss", "bits_per_byte", "word_perplexity", "mean_text_perplexity"):
        assert getattr(streamed.metrics, name) == pytest.approx(getattr(whole.metrics, name), rel=1e-9)
    assert streamed.metrics.uncertainty.loss == pytest.approx(whole.metrics.uncertainty.loss, rel=1e-9)


@pytest.mark.usefixtures("short")
def test_a_tokenizer_that_knows_no_cut_gives_the_same(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("every effort moves you " * 30)
    streamed, whole = evaluations(BytesModel(context_length=32), f"text:{path}", monkeypatch)
    for name in ("loss", "bits_per_byte", "bytes", "words"):
        assert getattr(streamed.metrics, name) == pytest.approx(getattr(whole.metrics, name), rel=1e-12)


class Halves(BytesModel):
    """Cuts anywhere, also within a word, and cannot say where its tokens lie."""

    def cut(self, text):
        return len(text) // 2

    def encode(self, text):
        return evalgpt.Encoding(super().encode(text).ids, None)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("protocol", ["exact:context=16,stride=5", "exact:context=16,prefix=none"])
def test_words_and_bytes_of_any_cut_are_those_of_the_whole(tmp_path, monkeypatch, protocol):
    path = tmp_path / "a.txt"
    path.write_text("every effort moves you " * 30)
    streamed, whole = evaluations(Halves(context_length=32), f"text:{path}", monkeypatch, protocol=protocol)
    for name in ("bits_per_byte", "bytes", "words", "word_perplexity"):
        one, other = getattr(streamed.metrics, name), getattr(whole.metrics, name)
        assert one is other is None or one == pytest.approx(other, rel=1e-12)


def test_cells_keep_what_a_long_sequence_is_worth(monkeypatch):
    generator = np.random.default_rng(0)
    slow = np.repeat(generator.normal(size=400), 250)
    losses, sizes = 3 + slow + generator.normal(size=100_000), generator.integers(1, 9, 100_000).astype(float)
    found = {}
    for size in (1 << 18, 40_000):
        monkeypatch.setattr(cells, "CELLS", size)
        kept = cells.Cells()
        for part, own in zip(np.array_split(losses, 333), np.array_split(sizes, 333), strict=True):
            kept.add(part, own, 0)
        found[size] = kept.columns()
    exact, coarse = found.values()
    assert len(exact[0]) == 100_000
    assert 40_000 <= len(coarse[0]) <= 80_000
    for a, b in zip(exact[:3], coarse[:3], strict=True):
        assert a.sum() == pytest.approx(b.sum())
    from evalgpt.report.statistics import ratio_estimate

    errors = [ratio_estimate(c[0], c[1], c[3]).standard_error for c in (exact, coarse)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


@pytest.mark.usefixtures("short")
def test_what_needs_the_whole_text_gets_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("every effort moves you " * 30)
    model = BytesModel(context_length=32)
    task = load_plugins().task(f"text:{path}")
    assert evalgpt.evaluate(model, task, tokens=True).rows[0].tokenized.text == path.read_text()
    assert evalgpt.evaluate(model, task, "hf-strided").rows[0].bytes == path.stat().st_size
    assert evalgpt.evaluate(model, task, precision=0.5).sample is not None
    assert task_info(task, list(task.documents())).characters == len(path.read_text())


@pytest.mark.usefixtures("short")
def test_two_models_are_compared_on_a_long_text(tmp_path):
    path, out = tmp_path / "a.txt", tmp_path / "c.json"
    path.write_text("every effort moves you " * 30)
    spec = "scratch:emb_dim=8,n_heads=1,n_layers=1,context_length=64"
    for more in ([], ["--until-decided"], ["--kl"]):
        command = ["compare", "-m", spec, "-m", f"{spec},seed=7", "-t", f"text:{path}", "-q"]
        command += ["--save-report", str(out), "--overwrite"]
        done = CliRunner().invoke(cli, [*command, *more])
        assert done.exit_code == 0, done.output
        tasks = [evaluation.task for evaluation in read_report(str(out)).evaluations]
        assert [found.bytes for found in tasks] == [path.stat().st_size] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PART", 1 << 12)
    monkeypatch.setattr(cells, "CELLS", 256)
    monkeypatch.setattr(streaming, "WAVE", 4)
    peaks = []
    model = load_plugins().model("scratch:emb_dim=8,n_heads=1,n_layers=1,context_length=64", device="cpu")
    tasks = []
    for copies in (400, 4000):
        path = tmp_path / f"{copies}.txt"
        path.write_text("every effort moves you, " * copies)
        tasks.append(load_plugins().task(f"text:{path}"))
    evalgpt.evaluate(model, tasks[1], batch_tokens=256)  # what is built once, and Python's free lists, are no growth
    for task in tasks:
        tracemalloc.start()
        evalgpt.evaluate(model, task, batch_tokens=256)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks  # ten times the text


@pytest.mark.usefixtures("short")
def test_a_report_of_a_long_text_is_read_shown_and_verified(tmp_path, monkeypatch):
    path, out = tmp_path / "a.txt", tmp_path / "r.json"
    path.write_text("every effort moves you " * 30)
    spec = "scratch:emb_dim=8,n_heads=1,n_layers=1,context_length=64"
    ran = CliRunner().invoke(cli, ["run", "-m", spec, "-t", f"text:{path}", "-o", str(out), "-q"])
    assert ran.exit_code == 0, ran.output
    assert "part by part" in ran.output
    assert read_report(str(out)).evaluations[0].rows == []
    verified = CliRunner().invoke(cli, ["verify", str(out), "-q"])
    assert verified.exit_code == 0, verified.output
    compared = CliRunner().invoke(cli, ["compare", str(out), str(out)])
    assert compared.exit_code == 2
    assert "--tokens" in compared.output
    path.write_text("every effort moved you " * 30)
    changed = CliRunner().invoke(cli, ["verify", str(out), "-q"])
    assert changed.exit_code == 1
    assert "sha256" in changed.output


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("data", "said"),
    [(b"x" * 200 + b"\xff" + b"y" * 20, "near byte 200"), (b"x" * 150 + "é".encode()[:1], "not UTF-8")],
)
def test_bad_bytes_of_a_long_file_are_told(tmp_path, data, said):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(evalgpt.EvaluationError, match=said):
        evalgpt.evaluate(BytesModel(context_length=32), load_plugins().task(f"text:{path}"))


@pytest.mark.usefixtures("short")
def test_an_empty_file_among_long_ones_is_told_as_ever(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 200)
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(evalgpt.EvaluationError, match=r"b\.txt is empty; there is nothing to score; skip=true"):
        evalgpt.evaluate(BytesModel(context_length=32), load_plugins().task(f"text:{tmp_path}"))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("blank", ["", " \n" * 100])
def test_files_without_a_text_among_long_ones_are_left_out_if_asked(tmp_path, blank):
    (tmp_path / "a.txt").write_text("x" * 200)
    alone = evalgpt.evaluate(BytesModel(context_length=32), load_plugins().task(f"text:{tmp_path}"))
    (tmp_path / "b.txt").write_text(blank)
    found = evalgpt.evaluate(BytesModel(context_length=32), load_plugins().task(f"text:{tmp_path},skip=true"))
    assert found.metrics.loss == alone.metrics.loss
    assert found.task.documents == 1
    assert any("skipped 1 without a text" in note for note in found.notes)
    with pytest.raises(evalgpt.EvaluationError, match="skip=true"):
        evalgpt.evaluate(BytesModel(context_length=32), load_plugins().task(f"text:{tmp_path}"))


@pytest.mark.usefixtures("short")
def test_texts_too_short_to_score_are_noted(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 200)
    (tmp_path / "b.txt").write_text("y")
    model = BytesModel(context_length=32, prefix_id=None)
    found = evalgpt.evaluate(model, load_plugins().task(f"text:{tmp_path}"))
    assert not found.rows
    assert "1 of 2 texts are too short for protocol exact and were not scored" in found.notes


def test_texts_that_were_scored_are_not_kept(monkeypatch):
    """Many records are as long together as one book."""

    class Tracked(str):
        """Text that a weak reference can follow."""

    monkeypatch.setattr(streaming, "WAVE", 1)
    alive: list[weakref.ref[Tracked]] = []
    most = 0

    class Many(Task):
        name = "many"
        long = 1

        def documents(self):
            nonlocal most
            for number in range(200):
                text = Tracked(f"record {number} of many more of its kind")
                alive.append(weakref.ref(text))
                yield Document(f"d{number}", text)
                most = max(most, sum(reference() is not None for reference in alive))

    evalgpt.evaluate(BytesModel(uniform_loss), Many(), batch_tokens=64)
    assert most < 20
