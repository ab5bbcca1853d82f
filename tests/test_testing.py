"""The conformance kit: every broken adapter is caught by a named check, no sound one fails any."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from broken_lengths import BY_LENGTH, SOUND_BY_LENGTH
from broken_logits import DISTORTED, ROUNDED
from broken_models import BROKEN as CLASSIC
from broken_models import FIRST_SIXTEEN
from broken_rarely import RARE
from broken_texts import NORMALISING
from models import BytesModel
from sound_models import SOUND as SOUND_ONES

from evalgpt import EvaluationError, UsageError, testing
from evalgpt.testing import CHECKS, CheckFailed, Subject, run_check, run_checks

SOUND = SOUND_ONES | SOUND_BY_LENGTH
BROKEN = CLASSIC | DISTORTED | ROUNDED | NORMALISING | BY_LENGTH | RARE

CAUGHT_BY = {
    "no-causal-mask": "causality",
    "causal-mask-off-by-one": "causality",
    "padding-attended-to": "padding",
    "padding-makes-nan": "padding",
    "padding-scored": "padding",
    "positions-wrong-under-padding": "padding",
    "targets-unshifted": "shift",
    "targets-already-read": "normalised",
    "shifted-twice": "shift",
    "shifted-twice-one-short": "losses",
    "start-off-by-one": "causality",
    "start-ignored": "start",
    "dropout-left-on": "repeatable",
    "log-base-2": "normalised",
    "raw-logits": "normalised",
    "softmax-over-batch": "batch_order",
    "softmax-over-positions": "normalised",
    "temperature-in-numerator-only": "normalised",
    "normalizer-over-first-200": "normalised",
    "long-window-zeroed": "long_window",
    "long-window-seam": "long_window",
    "long-window-scaled": "long_window",
    "large-batch-turned": "batch_order",
    "large-batch-less-precise": "batch_order",
    "vocabulary-head-cut": "vocabulary",
    "vocabulary-ids-clamped": "vocabulary",
    "log-likelihoods": "losses",
    "averages": "start",
    "greedy-choice-scored": "shift",
    "nll-rounded": "losses",
    "log-probs-in-float16": "losses",
    "batch-order-lost": "padding",
    "batch-order-of-equals-reversed": "batch_order",
    "cache-kept": "stateless",
    "running-statistic": "stateless",
    "memo-forgets-context": "remembered",
    "buffer-reused": "windows_kept",
    "mutates-ids": "windows_kept",
    "returns-tensors": "losses",
    "rank-from-one": "detail",
    "entropy-in-bits": "detail",
    "top-unsorted": "detail",
    "top-not-logs": "detail",
    "detail-misaligned": "detail",
    "limit-overstated": "context_limit",
    "limit-overstated-by-one": "context_limit",
    "limit-keeps-last-24": "context_limit",
    "vocabulary-overstated": "vocabulary",
    "prefix-outside-vocabulary": "attributes",
    "bos-encoded": "no_special_tokens",
    "bos-always-fed": "context_limit",
    "bos-fed-when-missing": "prefix_not_added",
    "fingerprint-constant": "fingerprint_follows_weights",
    "fingerprint-of-config": "fingerprint_follows_weights",
    "fingerprint-random": "fingerprint_stable",
    "fingerprint-moves-with-use": "fingerprint_stable",
    "weights-unseeded": "fingerprint_stable",
    "weights-unseeded-fingerprint-of-seed": "fingerprint_stable",
    "encode-lower-cases": "round_trip",
    "encode-strips": "round_trip",
    "encode-truncates": "encode_whole",
    "encode-adds-eos": "no_special_tokens",
    "encode-reads-specials": "special_text",
    "spans-of-characters": "byte_spans",
    "spans-shifted": "byte_spans",
    "decode-drops-spaces": "round_trip",
    "decode-strips": "round_trip",
    "decode-drops-invalid": "byte_spans",
    "decode-knows-part-of-the-ids": "decode_every_id",
    "decode-token-by-token": "round_trip",
    "temperature": "logits",
    "temperature-in-logits-alone": "logits",
    "label-smoothing": "logits",
    "mixed-with-uniform": "logits",
    "top-k-mask": "logits",
    "logit-bias": "logits",
    "repetition-penalty": "logits",
    "logits-clipped": "logits",
    "detail-at-temperature": "detail",
    "logits-of-the-token-before": "logits",
    "logits-count-from-the-front": "logits_count",
    "logits-of-the-last-alone": "logits_count",
    "logits-remember": "logits_count",
    "logits-in-bfloat16": "precision",
    "logits-in-float16": "precision",
    "large-logits-in-float16": "precision",
    "logits-in-bfloat16-dtype-unknown": "precision",
    "losses-of-bfloat16-logits": "precision",
    "losses-of-float16-logits": "precision",
    "nll-rounded-to-four-decimals": "losses",
    "float64-claimed": "precision",
    **dict.fromkeys(NORMALISING, "text_kept"),
    **dict.fromkeys(BY_LENGTH, "lengths"),
    "long-cut-on-the-left": "context_limit",
    "batch-split-wrongly": "batch_order",
    "huge-batch-split-wrongly": "batch_order",
    "longest-window-cut": "padding",
    "full-window-last-wrong": "long_window",
    "repeats-scored-once": "batch_order",
    "cached-by-too-little": "remembered",
    "cached-by-sum": "remembered",
    "cached-by-both-ends": "remembered",
    "vocabulary-grows": "fingerprint_stable",
    "pieces-lose-spaces": "encode_whole",
    "pieces-count-from-zero": "byte_spans",
    "grad-mode-left-off": "process",
    "numpy-errors-ignored": "process",
    "deterministic-left-on": "process",
    "logits-swap-two-rare": "logits",
    "logits-swap-neighbours": "logits",
    "encode-learns": "text_kept",
    "spans-of-utf-16": "byte_spans",
    "logits-permuted": "logits",
    "logits-reversed-vocabulary": "logits",
    "touches-random-numbers": "process",
    "changes-default-dtype": "repeatable",
    "one-call-in-ten": "repeatable",
    "fingerprint-without-buffers": "fingerprint_follows_weights",
    "token-zero-is-padding": "logits",
    "prefix-masked": "logits",
    "eos-scored-as-certain": "normalised",
    "ignore-index-zero": "normalised",
    "loss-capped": "logits",
    "impossible-instead-of-unlikely": "logits",
}

INVISIBLE = {
    "context-ignored": "a model of the last token alone is a model, and its weights could be meant so",
    "limit-clamps-positions": "it gives the probabilities of some model; no score tells that another was meant",
    "position-off-beyond-half": "two positions that share an embedding are weights that a model may have",
    "decode-same-for-two": "many tokenizers have two tokens of one spelling",
    "fingerprint-salted": "the same within one process; verify sees it in the next",
}
"""What the public interface cannot show, and why."""


@pytest.fixture(autouse=True)
def _process_state():
    """Some of the broken change it, for the whole process."""
    kept = torch.get_default_dtype(), np.geterr()
    yield
    torch.set_default_dtype(kept[0])
    np.seterr(**kept[1])
    torch.set_grad_enabled(True)
    torch.set_deterministic_debug_mode("default")


BY_ROUNDING = {"float64-claimed"}
"""What shows by rounding alone: not where a processor adds up in one order whatever the batch."""


def subject(build, seed=0):
    return Subject(lambda: build(seed), lambda: build(seed + 1000), seed)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.usefixtures("one_thread")
def test_every_broken_adapter_is_caught_by_its_check(name):
    if name in INVISIBLE:
        assert not [o for o in run_checks(subject(BROKEN[name])) if o.status == "failed"]
        return
    for seed in range(3):
        outcome = run_check(subject(BROKEN[name], seed), CAUGHT_BY[name])
        torch.set_default_dtype(torch.float32)
        if name in BY_ROUNDING and outcome.status == "passed":
            pytest.skip("needs a processor on which sums of float32 differ with the batch, as AVX2's and AVX-512's do")
        assert outcome.status == "failed", outcome
        assert len(outcome.message) > 30


def test_the_sixteen_classic_mistakes_are_among_the_caught():
    assert len(set(FIRST_SIXTEEN)) == 16
    assert set(FIRST_SIXTEEN) <= set(CAUGHT_BY)
    assert set(CAUGHT_BY) | set(INVISIBLE) == set(BROKEN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(1), id="one"), pytest.param(range(1, 20), id="nineteen more", marks=pytest.mark.simulation)],
)
@pytest.mark.parametrize("name", SOUND)
@pytest.mark.usefixtures("one_thread")
def test_no_check_fails_on_a_sound_adapter_over_twenty_seeds(name, seeds):
    for seed in seeds:
        failed = [outcome for outcome in run_checks(subject(SOUND[name], seed)) if outcome.status == "failed"]
        assert not failed, (seed, failed)


@pytest.mark.usefixtures("one_thread")
def test_no_check_is_skipped_on_a_model_that_can_show_everything():
    assert {outcome.status for outcome in run_checks(subject(SOUND["sound"]))} == {"passed"}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("apart", "status"), [(5e-4, "passed"), (2e-3, "failed")])
def test_rounding_may_move_a_few_windows_of_a_large_batch_more_than_most(apart, status):
    class Sensitive(SOUND["sound"]):
        def score(self, windows, detail=None):
            scores = super().score(windows, detail)
            moved = [len(windows) > 16 and sum(window.ids) % 40 == 3 for window in windows]
            return [replace(s, nll=s.nll + np.float32(apart * m)) for s, m in zip(scores, moved, strict=True)]

    assert run_check(subject(Sensitive), "batch_order").status == status


def test_skipped_checks_say_what_they_would_need():
    outcomes = {o.check: o for o in run_checks(Subject(lambda: SOUND["nll-only"](0)))}
    assert "--other" in outcomes["fingerprint_follows_weights"].message
    assert "detail" in outcomes["detail"].message
    assert outcomes["normalised"].status == "passed"  # scored token by token


@pytest.mark.parametrize("name", NORMALISING)
def test_a_tokenizer_that_normalises_is_told_from_a_faulty_decode(name):
    message = run_check(subject(BROKEN[name]), "text_kept").message
    assert ("have the same ids" in message) == name.startswith("encode-")
    assert ("decode() gives" in message) == name.startswith("decode-")
    if name.startswith("encode-"):
        assert "expect this failure" in message


def test_every_check_says_what_it_asserts():
    for check in CHECKS.values():
        assert check.__doc__.strip().endswith(".")


@testing.parametrize(lambda: SOUND["sound"](3), other=lambda: SOUND["sound"](4))
def test_parametrize_gives_pytest_each_check(check):
    check()


@testing.parametrize(
    lambda: BROKEN["encode-strips"](3),
    expected={
        "round_trip": "strips by design",
        "text_kept": "strips by design",
        "byte_spans": "and its spans with it",
    },
)
def test_parametrize_expects_failures_that_have_a_reason(check):
    check()


def test_the_ids_of_parametrize_are_the_names_of_the_checks():
    mark = testing.parametrize(lambda: SOUND["sound"](3), expected={"round_trip": "a reason"})
    cases = mark.args[1]
    assert [case.id for case in cases] == list(CHECKS)
    (expected,) = [case for case in cases if case.marks]
    assert expected.id == "round_trip"
    assert expected.marks[0].kwargs == {"reason": "a reason", "strict": True, "raises": CheckFailed}


def test_an_expected_failure_that_passes_is_no_success():
    outcome = run_check(subject(SOUND["sound"]), "round_trip", "thought to be lossy")
    assert outcome.status == "unexpected"
    assert not outcome.good


def test_unknown_checks_are_named():
    with pytest.raises(UsageError, match="no check 'roundtrip'; did you mean 'round_trip'"):
        list(run_checks(subject(SOUND["sound"]), only=["roundtrip"]))
    with pytest.raises(UsageError, match="no check 'roundtrip'"):
        testing.parametrize(lambda: SOUND["sound"](0), expected={"roundtrip": "x"})


def test_what_an_adapter_raises_is_told():
    def loss(*_):
        raise EvaluationError("the server is busy")

    outcome = run_check(Subject(lambda: BytesModel(loss)), "causality")
    assert outcome.status == "failed"
    assert re.fullmatch(r"the adapter raised the server is busy \(test_testing\.py, line \d+\)", outcome.message)


@pytest.mark.parametrize("options", [{"seed": -1}, {"tolerance": -1.0}, {"tolerance": float("nan")}])
def test_numbers_that_cannot_be_are_refused(options):
    with pytest.raises(UsageError, match="from 0 up"):
        Subject(lambda: SOUND["sound"](0), **options)


def test_a_window_too_long_to_try_is_skipped_with_its_price():
    outcome = run_check(Subject(lambda: SOUND["sound"](0), longest=40), "context_limit")
    assert outcome.status == "skipped"
    assert "--longest 48" in outcome.message


def test_a_model_that_cannot_be_built_is_no_expected_failure():
    def build():
        raise EvaluationError("no weights")

    mark = testing.parametrize(build, expected={"round_trip": "a reason"})
    (case,) = [case for case in mark.args[1] if case.marks]
    with pytest.raises(EvaluationError, match="no weights"):  # and not CheckFailed, which the mark expects
        case.values[0]()


def test_a_failed_check_is_an_assertion_error():
    with pytest.raises(CheckFailed) as caught:
        CHECKS["causality"](subject(BROKEN["no-causal-mask"]))
    assert isinstance(caught.value, AssertionError)
