"""Paired comparison: alignment against a naive one, refusals by field, the command, the KL divergence."""

import itertools
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.models import BytesModel, hashed_loss

import evalgpt
from evalgpt import Document, Encoding, Task, UsageError
from evalgpt.cli import cli
from evalgpt.core.plugins import load_plugins
from evalgpt.scoring.batching import BatchSize
from evalgpt.studies.compare.comparison import compare, pairs_of
from evalgpt.studies.compare.divergence import diverge

pytestmark = pytest.mark.numeric

SMALL = "emb_dim=16,n_heads=2,n_layers=2,context_length=64"


class Texts(Task):
    name = "texts"

    def __init__(self, *texts):
        self.texts = texts

    def documents(self):
        for number, text in enumerate(self.texts):
            yield Document(str(number), text)


class CutModel(BytesModel):
    """A tokenizer that cuts wherever ``cuts`` says, so that any two segmentations of a text can be had."""

    def __init__(self, cuts, salt=0, **options):
        super().__init__(lambda context, target: hashed_loss((salt, *context), target), context_length=512, **options)
        self.name = f"cut-{salt}"
        self.cuts = cuts

    def encode(self, text):
        edges = sorted({0, len(text.encode()), *(c for c in self.cuts if c < len(text.encode()))})
        spans = list(itertools.pairwise(edges))
        return Encoding([end % 256 for _, end in spans], spans if self.spans else None)


def naive(a, b, length):
    """Segments by brute force: (begin, end, nll a, nll b) between positions where both have a token's end."""

    def losses(row):
        t = row.tokenized
        found = {}
        at = 0
        for first, size in zip(t.first, t.size, strict=True):
            for i in range(first, first + size):
                found[i] = float(np.float32(t.nll[at]))
                at += 1
        return [(s, e, found.get(i)) for i, (s, e) in enumerate(zip(t.byte_starts, t.byte_ends, strict=True))]

    one, other = losses(a), losses(b)
    cut = [p for p in range(length + 1) if all(not s < p < e for s, e, _ in one + other)]
    segments = []
    for begin, end in itertools.pairwise(cut):
        inside = [[n for s, e, n in side if begin <= s and e <= end] for side in (one, other)]
        if all(side and None not in side for side in inside):
            segments.append((begin, end, math.fsum(inside[0]), math.fsum(inside[1])))
    return segments


cuts = st.sets(st.integers(1, 59), max_size=40)


@given(cuts, cuts, st.sampled_from([256, None]), st.sampled_from([256, None]))
def test_spans_are_those_of_a_naive_alignment(cuts_a, cuts_b, prefix_a, prefix_b):
    text = "x" * 60
    sides = [
        evalgpt.evaluate(CutModel(c, salt, prefix_id=p), Texts(text + "yz"), "exact:context=512,stride=256")
        for salt, (c, p) in enumerate([(cuts_a | {60}, prefix_a), (cuts_b | {60}, prefix_b)])
    ]
    if cuts_a == cuts_b and prefix_a != prefix_b:
        with pytest.raises(UsageError, match="scored spans differ"):
            compare(*sides)
        return
    expected = naive(sides[0].rows[0], sides[1].rows[0], 62)
    found = compare(*sides)
    total = sum(end - begin for begin, end, _, _ in expected)
    bits = [sum(segment[k] for segment in expected) / math.log(2) / total for k in (2, 3)]
    assert found.units == len(expected)
    assert found.bytes == total
    assert found.unit == ("token" if cuts_a == cuts_b else "span")
    assert found.baseline.bits_per_byte.value == pytest.approx(bits[0])
    assert found.candidate.bits_per_byte.value == pytest.approx(bits[1])
    assert found.bits_per_byte_difference.value == pytest.approx(bits[1] - bits[0])
    better = sum(end - begin for begin, end, a, b in expected if b < a)
    assert found.candidate_better == pytest.approx(better / total)
    assert found.candidate_better + found.baseline_better == pytest.approx(1)


def two(task=None, spec="exact", **options):
    task = task or Texts("a text that is compared with itself, word for word, twice over")
    return [evalgpt.evaluate(CutModel(range(100), salt, **options), task, spec) for salt in (0, 1)]


def test_one_tokenizer_is_compared_token_by_token():
    a, b = two()
    found = compare(a, b)
    gaps = np.subtract(*(np.array(e.rows[0].tokenized.nll, np.float32).astype(float) for e in (b, a)))
    assert found.unit == "token"
    assert found.loss_difference.value == pytest.approx(gaps.mean())
    assert found.loss_difference.value == pytest.approx(b.metrics.loss - a.metrics.loss)
    assert found.candidate.loss == pytest.approx(b.metrics.loss)
    assert found.candidate.bits_per_byte.value == pytest.approx(b.metrics.bits_per_byte)


def test_the_losses_of_a_comparison_are_those_of_its_reports(tmp_path):
    a, b = two("story")
    for e, name in ((a, "a.json"), (b, "b.json")):
        evalgpt.write_report(evalgpt.make_report([e]), str(tmp_path / name))
    a, b = (evalgpt.read_report(str(tmp_path / name)).evaluations[0] for name in ("a.json", "b.json"))
    assert any(float(np.float32(x)) != x for row in a.rows for x in row.tokenized.nll)  # decimals, not float32
    found = compare(a, b)
    for side, e in ((found.baseline, a), (found.candidate, b)):
        assert side.loss == pytest.approx(e.metrics.loss, rel=1e-12)
        assert side.perplexity == pytest.approx(e.metrics.perplexity, rel=1e-12)


def test_tokens_without_spans_are_still_paired():
    a, b = two(spans=False)
    assert compare(a, b).loss_difference.value == pytest.approx(b.metrics.loss - a.metrics.loss)


def test_a_model_against_itself_is_equally_good():
    a, _ = two()
    found = compare(a, a)
    assert found.bits_per_byte_difference.value == 0
    assert found.bits_per_byte_difference.p_value == 1
    assert found.candidate_better == found.baseline_better == 0


def test_swapping_the_two_turns_the_sign():
    a, b = two()
    one, other = compare(a, b).bits_per_byte_difference, compare(b, a).bits_per_byte_difference
    assert one.value == pytest.approx(-other.value)
    assert one.low == pytest.approx(-other.high)
    assert one.p_value == pytest.approx(other.p_value)


def test_what_cannot_be_compared_is_refused_by_field():
    a, _ = two()
    other_text, _ = two(Texts("another text altogether"))
    with pytest.raises(UsageError, match=r"task\.sha256"):
        compare(a, other_text)
    with pytest.raises(UsageError, match=r"task\.sha256"):
        pairs_of([a, other_text])
    with pytest.raises(UsageError, match=r"protocol\.name is exact against hf-strided"):
        compare(a, two(spec="hf-strided")[0])
    with pytest.raises(UsageError, match=r"protocol\.settings\.stride is 256 against 7"):
        compare(a, two(spec="exact:stride=7")[0])
    lean = evalgpt.evaluate(BytesModel(context_length=512), Texts(*a_text(a)), "exact", tokens=False)
    with pytest.raises(UsageError, match="with --tokens"):
        compare(a, lean)
    blind = evalgpt.evaluate(
        CutModel({5, 9}, 1, spans=False), Texts("a text that is compared with itself, word for word, twice over")
    )
    with pytest.raises(UsageError, match="cannot tell where its tokens lie"):
        compare(a, blind)


def a_text(_):
    return ["a text that is compared with itself, word for word, twice over"]


def run(*arguments):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "story.txt"
    text = next(iter(load_plugins().task("story").documents())).text
    path.write_text(text[:3000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reports(tmp_path_factory, story):
    folder = tmp_path_factory.mktemp("reports")
    paths = []
    for seed in (1, 2):
        path = folder / f"{seed}.json"
        result = CliRunner().invoke(
            cli, ["run", "-m", f"scratch:{SMALL},seed={seed}", "-t", f"text:{story}", "-o", path]
        )
        assert result.exit_code == 0, result.output
        paths.append(path)
    return paths


def agree(one, other):
    """The same but for rounding: with --kl the windows stand in other batches, and a product's last digit with them."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            agree(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            agree(a, b)
    else:
        assert one == (pytest.approx(other, rel=1e-5, abs=1e-7) if isinstance(one, float) else other)


def test_reports_and_models_give_the_same_comparison(tmp_path, reports, story):
    from_reports, from_models, kept = (tmp_path / name for name in ("a.json", "b.json", "kept.json"))
    first = run(*reports, "-o", from_reports)
    models = [f"scratch:{SMALL},seed={seed}" for seed in (1, 2)]
    second = run(
        "-m", models[0], "-m", models[1], "-t", f"text:{story}", "-o", from_models, "--save-report", kept, "--kl"
    )
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    one, other = (json.loads(path.read_text())["comparisons"][0] for path in (from_reports, from_models))
    assert other.pop("divergence")["mean"]["value"] > 0
    assert one.pop("divergence") is None
    agree(one, other)
    assert "KL(" in second.stdout
    assert "bits per byte (p" in first.stdout
    assert run(kept).exit_code == 0


def test_fail_if_worse_sets_the_exit_code(reports):
    gap = json.loads(run(*reports, "-o", "-").stdout)["comparisons"][0]["bits_per_byte_difference"]["value"]
    order = reports if gap > 0 else reports[::-1]
    worse = run(*order, "--fail-if-worse", abs(gap) / 2)
    assert worse.exit_code == 1
    assert len(worse.stderr.splitlines()) == 1
    assert "more than the" in worse.stderr
    assert run(*order, "--fail-if-worse", abs(gap) * 2).exit_code == 0
    assert run(*order[::-1], "--fail-if-worse", 0).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either reports, or models"),
        (("-m", "scratch", "-t", "pairs"), "two models or more"),
        (("-m", "scratch", "-m", "scratch"), "two models or more"),
        (("nowhere.json", "nowhere.json"), "cannot read the report nowhere.json"),
        (("REPORT", "--kl"), "--kl goes with models to run"),
        (("REPORT",), "there is 1"),
        (("REPORT", "REPORT", "-o", "no/such/folder.json"), "there is no folder"),
    ],
)
def test_bad_requests_are_one_line(reports, arguments, message):
    result = run(*(reports[0] if a == "REPORT" else a for a in arguments))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_models_with_other_limits_get_the_context_that_all_have(story):
    wide = SMALL.replace("context_length=64", "context_length=128")
    result = run("-m", f"scratch:{wide}", "-m", f"scratch:{SMALL}", "-t", f"text:{story}")
    assert result.exit_code == 0, result.output
    assert "exact (context 64, stride 32, prefix auto)" in result.stdout


def build(options):
    return load_plugins().model(f"scratch:{SMALL},{options}", device="cpu")


def kl_of(p, q, texts=("some words to be read by both",)):
    protocol = load_plugins().protocol("exact").bind(p)
    return diverge((p, q), list(Texts(*texts).documents()), protocol, size=BatchSize(256))


def test_a_model_does_not_diverge_from_itself():
    found = kl_of(build("seed=1"), build("seed=1"))
    assert abs(found.mean.value) < 1e-6
    assert found.largest < 1e-6
    assert found.same_top_token == 1


def test_the_divergence_is_that_of_full_logits_in_float64():
    import torch

    p, q = build("seed=1"), build("seed=2")
    text = "some words to be read by both"
    ids = torch.tensor([[p.prefix_id, *p.encode(text).ids[:-1]]])
    with torch.inference_mode():
        log_p, log_q = (m.module.double()(ids)[0].log_softmax(-1) for m in (build("seed=1"), build("seed=2")))
    exact = (log_p.exp() * (log_p - log_q)).sum(-1)
    found = kl_of(p, q, (text,))
    assert found.tokens == len(exact)
    assert found.mean.value == pytest.approx(float(exact.mean()), abs=1e-6)
    assert found.largest == pytest.approx(float(exact.max()), abs=1e-6)
    assert found.percentiles["50"] == pytest.approx(float(exact.quantile(0.5)), abs=1e-6)


def test_a_plain_model_diverges_as_its_tiled_twin_does():
    class Plain(type(build("seed=2"))):
        plain = True

    p, q, plain = build("seed=1"), build("seed=2"), build("seed=2")
    plain.__class__ = Plain
    assert kl_of(p, plain).mean.value == pytest.approx(kl_of(p, q).mean.value, abs=1e-6)


def test_models_without_distributions_or_with_other_vocabularies_are_refused():
    with pytest.raises(UsageError, match="gives no distributions"):
        kl_of(BytesModel(), BytesModel())
    with pytest.raises(UsageError, match="vocab_size is 50257"):
        kl_of(build("seed=1"), build("vocab_size=50300"))


def test_a_comparison_fits_its_schema(tmp_path, reports):
    import jsonschema

    schema = json.loads(CliRunner().invoke(cli, ["schema", "comparison"]).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(run(*reports, "-o", "-").stdout), schema)


class Continuations(Task):
    name = "continuations"

    def documents(self):
        for number in range(12):
            yield Document(
                f"{number}", f"the other of {number} words", f"Number {number} is big and ", f"pair {number // 2}"
            )


@pytest.mark.parametrize("other", [range(0, 100, 3), range(0, 100, 5)])
def test_a_context_is_no_part_of_what_is_compared(other):
    a = evalgpt.evaluate(CutModel(range(0, 100, 3)), Continuations())
    b = evalgpt.evaluate(CutModel(other, 1), Continuations())
    found = compare(a, b)
    assert found.bytes <= a.task.bytes
    for side, evaluation in ((found.baseline, a), (found.candidate, b)):
        assert found.bytes + side.left_out_bytes == evaluation.metrics.bytes
        if not side.left_out_bytes:
            assert side.bits_per_byte.value == pytest.approx(evaluation.metrics.bits_per_byte)


def test_a_group_of_documents_is_one_observation():
    a, b = (evalgpt.evaluate(CutModel(range(100), salt), Continuations()) for salt in (0, 1))
    assert (a.metrics.uncertainty.method, a.metrics.uncertainty.units) == ("clusters", 6)
    assert compare(a, b).bits_per_byte_difference.units == 6


def test_the_first_model_is_the_baseline_of_every_text():
    models = {salt: CutModel(range(100), salt) for salt in (0, 1, 2)}
    texts = {name: Texts(f"{name} is the text that is read here") for name in "ab"}

    def one(salt, name):
        return evalgpt.evaluate(models[salt], texts[name])

    for salt, model in models.items():
        model.fingerprint = str(salt)
    pairs, left_out = pairs_of([one(0, "a"), one(1, "a"), one(2, "b"), one(1, "b")])
    assert [(x.model.name, y.model.name) for x, y in pairs] == [("cut-0", "cut-1")]
    assert left_out == ["texts, protocol exact (context 512, stride 256, prefix auto), only of cut-2"]


def test_a_text_that_was_not_compared_is_told_and_fails_a_gate(reports, tmp_path, story):
    both = tmp_path / "both.json"
    other = tmp_path / "other.txt"
    other.write_text("a second text that only one of the two has read")
    spec = f"scratch:{SMALL},seed=1"
    made = CliRunner().invoke(cli, ["run", "-m", spec, "-t", f"text:{story}", "-t", f"text:{other}", "-o", str(both)])
    assert made.exit_code == 0
    told = run(both, reports[1])
    assert told.exit_code == 0
    assert "not compared: text:" in told.stderr
    gated = run(both, reports[1], "--fail-if-worse", 5)
    assert gated.exit_code == 2
    assert "every text must be compared" in gated.stderr


@pytest.mark.parametrize("limit", ["nan", "-1", "inf"])
def test_a_limit_that_limits_nothing_is_refused(reports, limit):
    assert run(*reports, f"--fail-if-worse={limit}").exit_code == 2


def test_nothing_is_written_over_what_is_read(reports, tmp_path):
    assert "would be written over" in run(*reports, "-o", reports[0]).stderr
    same = tmp_path / "x.json"
    models = ["-m", f"scratch:{SMALL}", "-m", f"scratch:{SMALL},seed=2", "-t", "pairs"]
    assert "would be written over" in run(*models, "-o", same, "--save-report", same).stderr
    assert "needs a file" in run(*models, "--save-report", "-").stderr


def test_a_divergence_that_cannot_be_is_refused_before_anything_runs(tmp_path):
    kept = tmp_path / "kept.json"
    models = ["-m", f"scratch:{SMALL}", "-m", f"scratch:{SMALL},vocab_size=50300"]
    result = run(*models, "-t", "pairs", "--kl", "--save-report", kept)
    assert result.exit_code == 2
    assert not kept.exists()


def test_what_was_compared_before_a_failure_is_shown(tmp_path, story):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    models = ["-m", f"scratch:{SMALL}", "-m", f"scratch:{SMALL},seed=2"]
    result = run(*models, "-t", f"text:{story}", "-t", f"text:{empty}")
    assert result.exit_code == 1
    assert "bits per byte" in result.stdout
    assert "is empty" in result.stderr
