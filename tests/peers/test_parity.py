"""The comparisons themselves: what counts as agreement."""

import math

import pytest

pytest.importorskip("transformers", reason="needs the extra hf")

from peers.parity import Comparison, check, worst


def compared(theirs, ours, **how):
    return Comparison("peer", "1", "loss", "model", theirs, ours, **how)


@pytest.mark.parametrize(
    ("theirs", "ours", "agree"),
    [
        (2.0, 2.0, True),
        (2.0, 2.00001, True),
        (2.0, 2.0001, False),
        (-2.0, 2.0, False),
        (0.0, 0.0, True),
        (0.0, 1e-9, False),
        (math.nan, 2.0, False),
        (2.0, math.nan, False),
    ],
)
def test_values_agree_within_a_relative_hundred_thousandth(theirs, ours, agree):
    row = compared(theirs, ours)
    assert row.agrees is agree
    if not agree:
        with pytest.raises(AssertionError, match="by evalgpt"):
            check([row], "model", "loss")


def test_a_wider_tolerance_needs_its_reason():
    with pytest.raises(ValueError, match="needs its reason"):
        compared(2.0, 2.0, tolerance=1e-2)
    assert compared(2.0, 2.01, tolerance=1e-2, note="8-bit activations").agrees


def test_a_quantity_that_was_not_compared_is_no_agreement():
    with pytest.raises(ValueError, match="not enough values"):
        check([compared(2.0, 2.0)], "model", "perplexity")


def test_the_worst_pair_is_found_and_none_is_dropped():
    assert worst([1.0, 100.0, 2.0], [1.1, 101.0, 2.3]) == (2.0, 2.3)
    with pytest.raises(ValueError, match="shorter"):
        worst([1.0, 2.0], [1.0])
