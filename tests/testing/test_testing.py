"""The conformance kit: every broken adapter is caught by a named check, no sound one fails any."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.broken_models import FIRST_SIXTEEN
from support.broken_texts import NORMALISING
from support.catalogue import BROKEN, CAUGHT_BY, INVISIBLE, SOUND
from support.models import BytesModel

from evalgpt import EvaluationError, UsageError, testing
from evalgpt.testing import CHECKS, CheckFailed, Subject, run_check, run_checks


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
