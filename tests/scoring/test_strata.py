"""The order of scoring: strata in proportion, reproducible, and a first look that has seen each kind that matters."""

import itertools
import math

import numpy as np
import pytest

from evalgpt import UsageError
from evalgpt.scoring.strata import UNSEEN, design, first_look, unigram_loss


def none_seen(windows, kind, drawn):
    """P(a sample without replacement has none of the kind)."""
    return math.comb(windows - kind, drawn) / math.comb(windows, drawn)


def test_unigram_loss_worked_by_hand():
    """Tokens 7, 7, 9: counts 2 and 1, plus one 3 and 2 of 5."""
    found = unigram_loss([np.array([7, 9]), np.array([7]), np.array([], int)])
    assert found == pytest.approx([-(math.log(0.6) + math.log(0.4)) / 2, -math.log(0.6), 0.0])
    assert unigram_loss([np.array([], int)]).tolist() == [0.0]


def test_every_part_of_the_order_has_its_share_of_each_stratum():
    found = design(np.random.default_rng(0).standard_normal(1070), seed=3)
    assert sorted(found.order) == list(range(1070))
    sizes = np.bincount(found.strata)
    assert found.count == len(sizes) > 4
    for count in range(1, 1071):
        seen = np.bincount(found.strata[:count], minlength=len(sizes))
        assert np.abs(seen - count * sizes / 1070).max() <= 1.5


def test_strata_are_ranges_of_the_covariate():
    covariate = np.random.default_rng(1).standard_normal(500)
    found = design(covariate, seed=0)
    own = [covariate[np.array(found.order)[found.strata == s]] for s in range(found.count)]
    for one, other in itertools.pairwise(own):
        assert one.max() <= other.min()


def test_the_seed_fixes_the_order_and_each_window_is_as_likely_first():
    covariate = np.arange(200.0)
    assert design(covariate, 5).order == design(covariate, 5).order
    assert design(covariate, 5).order != design(covariate, 6).order
    half = np.zeros(200)
    for seed in range(400):
        half[design(covariate, seed).order[:100]] += 1
    assert np.abs(half - 200).max() < 5 * 10  # five standard deviations of a fair coin


@pytest.mark.parametrize("windows", [1, 2, 16, 17, 40, 300, 1070, 5000])
@pytest.mark.parametrize("rarest", [0.001, 0.01, 0.1])
def test_one_stratums_first_look_is_the_hypergeometric_one(windows, rarest):
    kind = max(1, math.ceil(rarest * windows - 1e-9))
    first = first_look(np.zeros(windows, np.int64), rarest)
    if first >= 16 and first < windows:
        assert none_seen(windows, kind, first) <= UNSEEN * (1 + 1e-9)
        assert first == 16 or none_seen(windows, kind, first - 1) > UNSEEN
    else:
        assert first == max(2, windows) if windows <= 16 else none_seen(windows, kind, windows - 1) > UNSEEN


def test_the_first_look_allows_for_the_worst_placing_over_strata():
    """All placings of 4 windows over three strata, by brute force."""
    strata = design(np.arange(60.0), 0).strata % 3
    first, sizes = first_look(strata, 4 / 60), np.bincount(strata)

    def unseen(count):
        seen = np.bincount(strata[:count], minlength=3)
        return max(
            math.prod(none_seen(size, k, n) for size, k, n in zip(sizes, ks, seen, strict=True))
            for ks in itertools.product(range(5), repeat=3)
            if sum(ks) == 4
        )

    assert unseen(first) <= UNSEEN * (1 + 1e-9) < unseen(first - 1)


@pytest.mark.parametrize("rarest", [0.0, 1.0, -0.1, math.nan])
def test_shares_and_seeds_that_cannot_be_are_refused(rarest):
    with pytest.raises(UsageError, match="between 0 and 1"):
        design(np.zeros(10), 0, rarest)
    with pytest.raises(UsageError, match="from 0 up"):
        design(np.zeros(10), -1)
